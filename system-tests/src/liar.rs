//! Small HTTP servers that answer, or lie, as a test wants.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// Three collections, each record as in the file.
#[derive(Clone, Default)]
pub struct Forum {
    pub users: Vec<String>,
    pub threads: Vec<String>,
    pub posts: Vec<String>,
}

impl Forum {
    /// Makes a forum with `count` posts, in ten threads by five users. The threads are not in id order.
    pub fn with_posts(count: u64) -> Self {
        let user = |id| format!(r#"{{"id":{id},"username":"user-{id}","name":"Name \"{id}\""}}"#);
        let thread = |id| format!(r#"{{"id":{id},"title":"title {id}","createdBy":{}}}"#, id % 5 + 1);
        let post = |n| format!(r#"{{"thread":{},"text":"text é {n}","user":{}}}"#, n % 10 + 1, n % 5 + 1);
        Self {
            users: (1..=5).map(user).collect(),
            threads: (1..=10).rev().map(thread).collect(),
            posts: (1..=count).map(post).collect(),
        }
    }

    /// Returns the combined file.
    pub fn source(&self) -> String {
        let [users, threads, posts] = [&self.users, &self.threads, &self.posts].map(|records| records.join(","));
        format!("{{\"users\":[{users}],\"threads\":[{threads}],\"posts\":[{posts}]}}")
    }

    /// Returns the forum as the services have it: posts get their places as ids, and everything is in id order.
    pub fn split(&self) -> Self {
        let mut split = self.clone();
        for (post, place) in split.posts.iter_mut().zip(1..) {
            if field(post, "id").is_none() {
                *post = format!("{{\"id\":{place},{}", &post[1..]);
            }
        }
        for records in [&mut split.users, &mut split.threads, &mut split.posts] {
            records.sort_by_key(|record| field(record, "id"));
        }
        split
    }

    /// Returns the body that the monolith sends; `None` for an unknown path, and an empty body for a missing record.
    pub fn body(&self, path: &str) -> Option<String> {
        let matching = |records: &[String], name: &str, id: &str| {
            let id: Option<u64> = id.parse().ok();
            records.iter().filter(|record| field(record, name) == id).cloned().collect::<Vec<_>>().join(",")
        };
        let list = |records: String| Some(format!("[{records}]"));
        let path = path.split('?').next().unwrap();
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match parts[..] {
            [""] => Some("Ready to receive requests".to_owned()),
            ["api"] => Some("API ready to receive requests".to_owned()),
            ["api", "users"] => list(self.users.join(",")),
            ["api", "threads"] => list(self.threads.join(",")),
            ["api", "posts"] => list(self.posts.join(",")),
            ["api", "users", id] => Some(matching(&self.users, "id", id)),
            ["api", "threads", id] => Some(matching(&self.threads, "id", id)),
            ["api", "posts", "in-thread", id] => list(matching(&self.posts, "thread", id)),
            ["api", "posts", "by-user", id] => list(matching(&self.posts, "user", id)),
            _ => None,
        }
    }

    /// Answers as the monolith does.
    pub fn as_monolith(&self, path: &str) -> Answer {
        match self.body(path) {
            None => Answer::new(404, "text/plain; charset=utf-8", "Not Found"),
            Some(body) if body.is_empty() => Answer::new(204, "", ""),
            Some(body) => Answer::new(200, kind_of(&body), &body),
        }
    }

    /// Answers as the services do; the forum must be [split](Self::split).
    pub fn as_services(&self, path: &str) -> Answer {
        match self.body(path).filter(|body| !body.is_empty()) {
            None => Answer::new(404, "application/problem+json", r#"{"status":404}"#),
            Some(body) => Answer::new(200, kind_of(&body), &body),
        }
    }
}

fn kind_of(body: &str) -> &'static str {
    if body.starts_with(['[', '{']) { "application/json; charset=utf-8" } else { "text/plain; charset=utf-8" }
}

fn field(record: &str, name: &str) -> Option<u64> {
    record::json::members(record).find(|(key, _)| *key == name).and_then(|(_, value)| value.parse().ok())
}

/// The end of an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Complete.
    Whole,
    /// Cut after so many bytes of the announced body.
    After(usize),
    /// Whole, but with this length announced.
    Announced(usize),
    /// No end: this text follows the body again and again.
    Never(&'static str),
    /// No answer: nothing is sent until the client closes the connection.
    Hung,
    /// A reset before anything is sent.
    Reset,
}

/// An answer, true or not.
#[derive(Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: BTreeMap<&'static str, String>,
    pub body: Vec<u8>,
    pub ending: Ending,
}

impl Answer {
    pub fn new(status: u16, kind: &str, body: &str) -> Self {
        let mut headers = BTreeMap::new();
        if !kind.is_empty() {
            headers.insert("content-type", kind.to_owned());
        }
        Self { status, headers, body: body.as_bytes().to_vec(), ending: Ending::Whole }
    }

    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.insert(name, value.to_owned());
        self
    }

    pub fn ending(mut self, ending: Ending) -> Self {
        self.ending = ending;
        self
    }

    /// Changes the body as text.
    pub fn edit(mut self, edit: impl FnOnce(String) -> String) -> Self {
        self.body = edit(String::from_utf8(self.body).unwrap()).into_bytes();
        self
    }

    fn send(&self, stream: &mut (impl Write + ?Sized)) -> std::io::Result<()> {
        let announced = match self.ending {
            Ending::Announced(bytes) => bytes,
            Ending::Never(_) => usize::MAX >> 1,
            _ => self.body.len(),
        };
        write!(stream, "HTTP/1.1 {} Of Its Own\r\nconnection: close\r\n", self.status)?;
        for (name, value) in &self.headers {
            write!(stream, "{name}: {value}\r\n")?;
        }
        if self.status != 204 {
            write!(stream, "content-length: {announced}\r\n")?;
        }
        write!(stream, "\r\n")?;
        match self.ending {
            Ending::After(bytes) => stream.write_all(&self.body[..bytes])?,
            _ => stream.write_all(&self.body)?,
        }
        if let Ending::Never(more) = self.ending {
            let block = more.repeat((64 << 10) / more.len() + 1);
            let block = block.as_bytes();
            loop {
                stream.write_all(block)?;
            }
        }
        stream.flush()
    }
}

/// A client's request.
pub struct Request {
    pub path: String,
    /// Lines with the name in lower case and the value as sent.
    pub headers: Vec<String>,
}

/// A server that runs until the test ends.
pub struct Server {
    pub address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// Starts a server that answers each path with `answer`.
    pub fn start(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_with(answer, |stream, serve| serve(stream))
    }

    /// Starts a server whose connections go through `wrap`, such as TLS.
    pub fn start_with(
        answer: impl Fn(&str) -> Answer + Send + Sync + 'static,
        wrap: impl Fn(&mut TcpStream, &dyn Fn(&mut dyn ReadWrite)) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (known, shared) = (Arc::clone(&requests), Arc::new((answer, wrap)));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, known, shared) = (stream.unwrap(), Arc::clone(&known), Arc::clone(&shared));
                thread::spawn(move || {
                    let closing = stream.try_clone().unwrap();
                    let serve = |stream: &mut dyn ReadWrite| {
                        let Some(request) = read(stream) else { return };
                        let answer = (shared.0)(&request.path);
                        known.lock().unwrap().push(request);
                        match answer.ending {
                            Ending::Reset => reset(&closing),
                            Ending::Hung => drop(stream.read(&mut [0])),
                            _ => drop(answer.send(stream)),
                        }
                    };
                    (shared.1)(&mut stream, &serve);
                });
            }
        });
        Self { address, requests }
    }

    /// Returns its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the paths that were requested since the last call.
    pub fn take_paths(&self) -> Vec<String> {
        self.take_requests().into_iter().map(|request| request.path).collect()
    }

    /// Returns the requests since the last call, with their headers.
    pub fn take_requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }
}

/// A connection's stream.
pub trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

fn read(stream: &mut dyn ReadWrite) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let path = lines.next()?.split(' ').nth(1)?.to_owned();
    let headers = lines.take_while(|line| !line.is_empty()).map(|line| match line.split_once(':') {
        Some((name, value)) => format!("{}:{value}", name.to_ascii_lowercase()),
        None => line,
    });
    Some(Request { path, headers: headers.collect() })
}

/// Makes the connection end with a reset: closing without time to linger does that.
fn reset(stream: &TcpStream) {
    rustix::net::sockopt::set_socket_linger(stream, Some(std::time::Duration::ZERO)).unwrap();
}
