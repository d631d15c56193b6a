//! The floor as a process on one thread. `bench/run` compares everything with it.

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use bench_programs::Floor;
use clap::Parser;
use hyper::StatusCode;
use tokio::net::TcpListener;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Answers every request with the same bytes
#[derive(Parser)]
struct Options {
    /// The address to serve on; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,

    /// The length of the body
    #[arg(long, default_value = "100")]
    bytes: usize,

    /// The status, such as 304, which has no body
    #[arg(long, default_value = "200")]
    status: StatusCode,

    /// The seconds that a request's head may take, by hyper's own timer
    #[arg(long)]
    header_timeout: Option<u64>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    let mut floor = Floor::new(options.status, options.bytes);
    if let Some(seconds) = options.header_timeout {
        floor.limit_heads(Duration::from_secs(seconds));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(options.listen).await?;
        println!("floor on http://{}", listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(floor.clone().serve(stream));
        }
    })
}
