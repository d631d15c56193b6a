//! A client in another language, which knows of the services what their OpenAPI documents say.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use world::{Process, posts, program, root, sample, split, start_entrance, start_writable, tool};

/// The longest that the client may take, in seconds, with the restart. It takes about ten.
const PATIENCE: &str = "120";

/// The program tells it step by step, and fails if anything is otherwise than the documents or docs/api.md say. It asks for
/// the end and the restart of the posts in the middle of what it does.
#[test]
fn a_client_in_python_lives_the_forums_whole_life_by_the_documents_alone() {
    // Its Python has the packages of the client too; the system's may not.
    let Some(schemathesis) = tool("schemathesis", "the client in Python") else { return };
    let folder = tempfile::tempdir().unwrap();
    split(&sample(), folder.path());
    let [users, threads, (service, address, secret)] = ["users", "threads", "posts"]
        .map(|name| start_writable(&mut Command::new(program(name)), name, folder.path(), &[]));
    let Some((_entrance, entrance)) = start_entrance(users.1, threads.1, address) else { return };

    let mut command = Command::new("timeout");
    command.arg(PATIENCE).arg(schemathesis.with_file_name("python3"));
    command.arg("-B").arg(root().join("system-tests/client/forum_life.py"));
    command.env("ENTRANCE", format!("http://{entrance}")).env("USERS_TOKEN", &users.2);
    command.env("THREADS_TOKEN", &threads.2).env("POSTS_TOKEN", &secret);
    let mut client = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut enter = client.stdin.take().unwrap();
    let (mut running, mut asked) = (Some(service), Vec::new());
    for line in BufReader::new(client.stdout.take().unwrap()).lines().map(Result::unwrap) {
        println!("{line}");
        let Some(wish) = line.strip_prefix("? ") else { continue };
        match running.take() {
            Some(service) => posts::kill(service),
            None => {
                let mut command = Command::new(program("posts"));
                command.args(["--listen", &address.to_string(), "--data"]).arg(folder.path().join("posts"));
                command.arg("--write-token-file").arg(folder.path().join("posts.tokens"));
                let mut service = Process::start(&mut command);
                service.await_line(" on http://");
                running = Some(service);
            }
        }
        asked.push(wish.to_owned());
        writeln!(enter).unwrap();
    }
    assert!(client.wait().unwrap().success());
    assert_eq!(asked, ["kill the service of the posts with SIGKILL", "restart it at the same address"]);
}
