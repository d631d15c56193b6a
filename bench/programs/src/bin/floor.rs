//! The floor as a process on one thread. `bench/run` compares everything with it.

use std::error::Error;
use std::net::SocketAddr;

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

    /// Wait for a request's head without end, as hyper does by itself
    #[arg(long)]
    no_header_timeout: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    let mut floor = Floor::new(options.status, options.bytes);
    if options.no_header_timeout {
        floor.wait_for_heads();
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
