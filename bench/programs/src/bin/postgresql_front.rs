//! PostgreSQL behind the thinnest HTTP: bare hyper on one thread, a prepared statement a route, and the text that
//! PostgreSQL makes as the body. The peer of a service in `bench/run`, which makes the tables.

use std::cell::Cell;
use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::rc::Rc;

use bench_programs::Whole;
use bytes::{Buf, Bytes};
use clap::Parser;
use hyper::body::{Body, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio_postgres::{Client, NoTls, Statement};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The paths of reads, and what answers them.
const READS: [(&str, &str); 5] = [
    ("/api/users/", "select json from users where id = $1"),
    ("/api/posts/", "select json from posts where id = $1"),
    (
        "/api/posts/in-thread/",
        r#"select '[' || coalesce(string_agg(json, ',' order by id), '') || ']' from posts where thread = $1"#,
    ),
    (
        "/api/posts/by-user/",
        r#"select '[' || coalesce(string_agg(json, ',' order by id), '') || ']' from posts where "user" = $1"#,
    ),
    (
        "/api/users",
        r#"select '[' || coalesce(string_agg(json, ',' order by id), '') || ']' from users where $1::bigint = 0"#,
    ),
];

const INSERT: &str = r#"insert into posts (thread, "user", json)
    values (($1::text::json ->> 'thread')::bigint, ($1::text::json ->> 'user')::bigint, $1) returning json"#;

/// Serves a database of PostgreSQL
#[derive(Parser)]
struct Options {
    /// The address to serve on; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,

    /// How to connect to PostgreSQL, such as "host=/run/postgresql user=postgres"
    #[arg(long)]
    database: String,

    /// The number of connections to PostgreSQL
    #[arg(long, default_value = "4")]
    connections: usize,

    /// A further read: the beginning of its path, and its SQL, whose $1 is the rest of the path as text
    #[arg(long = "read", value_name = "PATH=SQL", value_parser = parse_read)]
    reads: Vec<(String, String)>,
}

fn parse_read(text: &str) -> Result<(String, String), String> {
    let (path, sql) = text.split_once('=').ok_or("it has no `=` between its path and its SQL")?;
    Ok((path.to_owned(), sql.to_owned()))
}

/// A connection to PostgreSQL with its statements.
struct Connection {
    client: Client,
    reads: Vec<Statement>,
    further: Vec<(String, Statement)>,
    insert: Statement,
}

impl Connection {
    async fn open(options: &Options) -> Result<Self, tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::connect(&options.database, NoTls).await?;
        tokio::spawn(connection);
        let mut reads = Vec::new();
        for (_, sql) in READS {
            reads.push(client.prepare(sql).await?);
        }
        let mut further = Vec::new();
        for (path, sql) in &options.reads {
            further.push((path.clone(), client.prepare(sql).await?));
        }
        let insert = client.prepare(INSERT).await?;
        Ok(Self { client, reads, further, insert })
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Whole>, Box<dyn Error>> {
        let (row, status) = if request.method() == Method::POST {
            let body = String::from_utf8(collect(request.into_body()).await?)?;
            (self.client.query_opt(&self.insert, &[&body]).await?, StatusCode::CREATED)
        } else if let Some((rest, statement)) = self.find_further(request.uri().path()) {
            (self.client.query_opt(statement, &[&rest]).await?, StatusCode::OK)
        } else {
            let path = request.uri().path();
            let end = path.rfind('/').map_or(0, |slash| slash + 1);
            let id = path[end..].parse::<i64>();
            let route = if id.is_ok() { &path[..end] } else { path };
            let Some(nth) = READS.iter().position(|(read, _)| *read == route) else {
                return Ok(status_alone(StatusCode::NOT_FOUND));
            };
            (self.client.query_opt(&self.reads[nth], &[&id.unwrap_or(0)]).await?, StatusCode::OK)
        };
        let Some(row) = row else { return Ok(status_alone(StatusCode::NOT_FOUND)) };
        let mut response = Response::new(Whole(Bytes::from(row.try_get::<_, String>(0)?)));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
        Ok(response)
    }

    /// Returns the rest of the path of a further read, and its statement.
    fn find_further<'p>(&self, path: &'p str) -> Option<(&'p str, &Statement)> {
        self.further.iter().find_map(|(begin, statement)| Some((path.strip_prefix(&**begin)?, statement)))
    }
}

async fn collect(mut body: Incoming) -> Result<Vec<u8>, hyper::Error> {
    let mut bytes = Vec::new();
    while let Some(frame) = std::future::poll_fn(|context| std::pin::Pin::new(&mut body).poll_frame(context)).await {
        if let Ok(data) = frame?.into_data() {
            bytes.extend_from_slice(data.chunk());
        }
    }
    Ok(bytes)
}

fn status_alone(status: StatusCode) -> Response<Whole> {
    let mut response = Response::new(Whole(Bytes::new()));
    *response.status_mut() = status;
    response
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let mut connections = Vec::new();
        for _ in 0..options.connections.max(1) {
            connections.push(Connection::open(&options).await?);
        }
        let connections: Rc<[Connection]> = connections.into();
        let next = Rc::new(Cell::new(0));
        let listener = TcpListener::bind(options.listen).await?;
        println!("PostgreSQL on http://{}", listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let (connections, next) = (Rc::clone(&connections), Rc::clone(&next));
            tokio::task::spawn_local(async move {
                let service = service_fn(|request| {
                    let (connections, nth) = (Rc::clone(&connections), next.get());
                    next.set((nth + 1) % connections.len());
                    async move {
                        let answer = connections[nth].answer(request).await;
                        Ok::<_, Infallible>(answer.unwrap_or_else(|error| {
                            eprintln!("{error}");
                            status_alone(StatusCode::INTERNAL_SERVER_ERROR)
                        }))
                    }
                });
                // A client may leave when it likes.
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    })
}
