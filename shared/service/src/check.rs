//! A client that asks a service for its health or a scrub. The service's own program has it, since an image without a
//! shell has no other.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The time the service has to answer. It is below the usual timeouts of health checks, so that our reason is seen.
const PATIENCE: Duration = Duration::from_secs(3);

/// The time a scrub may take.
const SCRUB_PATIENCE: Duration = Duration::from_secs(24 * 60 * 60);

/// The most bytes of an answer to a check that are read: its first line counts, and its reason.
const ANSWER: usize = 16 << 10;

/// The bytes that are read at once.
const CHUNK: usize = 1 << 10;

/// Checks that the service that listens on `listen` is ready.
///
/// # Errors
/// The service is not ready; the error is the reason, in one line.
pub fn ready(listen: SocketAddr) -> Result<(), String> {
    let address = reachable(listen);
    let more = |answer: &[u8]| answer.len() < ANSWER && !answer.starts_with(b"HTTP/1.1 200 ");
    let reason = match ask(address, "GET /ready", PATIENCE, more) {
        Ok(answer) => match find_reason(&String::from_utf8_lossy(&answer)) {
            Some(reason) => reason,
            None => return Ok(()),
        },
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            format!("no answer within {} s", PATIENCE.as_secs())
        }
        Err(error) => error.to_string(),
    };
    Err(format!("http://{address}/ready: {reason}"))
}

/// Returns why the service that gave this answer is not ready; `None` if it is.
fn find_reason(answer: &str) -> Option<String> {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    let line = head.lines().next().unwrap_or_default();
    if line.split(' ').nth(1) == Some("200") {
        return None;
    }
    let problem: Value = serde_json::from_str(body).unwrap_or_default();
    let detail = problem["detail"].as_str().map(|detail| format!(": {}", detail.replace(char::is_control, " ")));
    Some(format!("the answer is {line:?}{}", detail.unwrap_or_default()))
}

/// Returns the address at which a service that listens on `listen` is reached from its own machine.
fn reachable(listen: SocketAddr) -> SocketAddr {
    match listen {
        SocketAddr::V4(any) if any.ip().is_unspecified() => (Ipv4Addr::LOCALHOST, any.port()).into(),
        SocketAddr::V6(any) if any.ip().is_unspecified() => (Ipv6Addr::LOCALHOST, any.port()).into(),
        one => one,
    }
}

/// Asks the service that listens on `listen` to read and check everything. Returns whether all is sound, and a report.
///
/// # Errors
/// No service listens there ([`ErrorKind::ConnectionRefused`]), or the answer does not come.
pub fn scrub(listen: SocketAddr) -> io::Result<(bool, String)> {
    let answer = ask(reachable(listen), "POST /scrub", SCRUB_PATIENCE, |_| true)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    Ok((head.split(' ').nth(1) == Some("200"), body.to_owned()))
}

/// Sends `request` to the service at `address`. Returns its answer, read for as long as `more` asks for more.
fn ask(address: SocketAddr, request: &str, patience: Duration, more: impl Fn(&[u8]) -> bool) -> io::Result<Vec<u8>> {
    let give_up = Instant::now() + patience;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    let head = format!("{request} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    let mut answer = Vec::new();
    let mut bytes = [0; CHUNK];
    while more(&answer) {
        let left = give_up.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut bytes)? {
            0 => break,
            read => answer.extend_from_slice(&bytes[..read]),
        }
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    #[test]
    fn a_service_that_listens_everywhere_is_asked_on_loopback() {
        for (listen, asked) in [
            ("0.0.0.0:3000", "127.0.0.1:3000"),
            ("[::]:3000", "[::1]:3000"),
            ("127.0.0.2:3000", "127.0.0.2:3000"),
            ("10.1.2.3:80", "10.1.2.3:80"),
        ] {
            assert_eq!(reachable(listen.parse().unwrap()), asked.parse().unwrap(), "{listen}");
        }
    }

    #[test]
    fn only_a_200_is_ready() {
        for (answer, expected) in [
            ("HTTP/1.1 200 OK\r\n\r\n", Ok(())),
            ("HTTP/1.1 503 Service Unavailable\r\n\r\n", Err(r#"the answer is "HTTP/1.1 503 Service Unavailable""#)),
            (
                "HTTP/1.1 503 Service Unavailable\r\n\r\n{\"detail\":\"It\\nwaits.\"}",
                Err(r#"the answer is "HTTP/1.1 503 Service Unavailable": It waits."#),
            ),
            ("HTTP/1.1 2000 OK\r\n\r\n", Err("the answer is")),
            ("\u{1b}[1mready\n200", Err(r#"the answer is "\u{1b}[1mready""#)),
            ("", Err(r#"the answer is """#)),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let service = thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    request.push(byte[0]);
                }
                stream.write_all(answer.as_bytes()).unwrap();
                String::from_utf8(request).unwrap()
            });
            match (ready(address), expected) {
                (Ok(()), Ok(())) => {}
                (Err(reason), Err(expected)) => assert!(reason.contains(expected), "{answer:?}: {reason}"),
                (got, _) => panic!("{answer:?}: {got:?}"),
            }
            assert!(service.join().unwrap().starts_with("GET /ready HTTP/1.1\r\n"));
        }
    }

    #[test]
    fn a_service_that_is_gone_or_silent_is_not_ready() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let silent = ready(address).unwrap_err();
        assert_eq!(silent, format!("http://{address}/ready: no answer within 3 s"));
        drop(listener);
        assert!(ready(address).unwrap_err().contains("refused"));
    }
}
