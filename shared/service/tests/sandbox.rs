//! Tests that the sandbox refuses the attempts of a compromised service.
//!
//! The kernel puts threads into sandboxes, so only one thread enters it here. The rest of the process stays outside and
//! provides the targets.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::net::{TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Mutex;
use std::{env, thread};

use service::sandbox;

/// An attempt and its result.
type Attempt = (&'static str, io::Result<()>);

/// Enters the sandbox of `data/posts`, from which `ports` may be reached, and makes all attempts in a thread that the sandboxed thread spawns.
fn break_out(
    data: &Path,
    ports: &[u16],
    tcp: &TcpListener,
    local: &SocketAddr,
    child: &Mutex<Child>,
) -> (Option<String>, Vec<Attempt>) {
    let posts = data.join("posts");
    let users = data.join("users");
    let missing = sandbox::enter(&posts, ports).unwrap();
    let attempts = thread::scope(|scope| {
        scope
            .spawn(|| {
                vec![
                    ("read another service's slice", fs::read(users.join("db.json")).map(drop)),
                    ("read it through ..", fs::read(posts.join("../users/db.json")).map(drop)),
                    ("read it through a link in its own folder", fs::read(posts.join("link")).map(drop)),
                    ("read it through /proc", {
                        fs::read(Path::new("/proc/self/root").join(users.join("db.json").strip_prefix("/").unwrap()))
                            .map(drop)
                    }),
                    ("give it a name in its own folder", fs::hard_link(users.join("db.json"), posts.join("mine"))),
                    ("move it into its own folder", fs::rename(users.join("db.json"), posts.join("mine"))),
                    ("list another service's folder", fs::read_dir(&users).map(drop)),
                    ("list the folder above", fs::read_dir(data).map(drop)),
                    ("read the system's files", fs::read("/etc/passwd").map(drop)),
                    ("list the system's files", fs::read_dir("/etc").map(drop)),
                    ("read its own environment", fs::read("/proc/self/environ").map(drop)),
                    ("open a device", File::open("/dev/null").map(drop)),
                    ("write into another service's folder", fs::write(users.join("new"), "x")),
                    ("overwrite a file there", OpenOptions::new().write(true).open(users.join("db.json")).map(drop)),
                    (
                        "truncate it",
                        OpenOptions::new().write(true).truncate(true).open(users.join("db.json")).map(drop),
                    ),
                    ("remove it", fs::remove_file(users.join("db.json"))),
                    ("move its own file there", fs::rename(posts.join("own"), users.join("own"))),
                    ("make a folder elsewhere", fs::create_dir(data.join("new"))),
                    ("make a link in its own folder", symlink(users.join("db.json"), posts.join("another"))),
                    ("run a program", Command::new("/bin/true").spawn().map(drop)),
                    ("run a program of its own", Command::new(posts.join("program")).spawn().map(drop)),
                    ("connect by TCP", TcpStream::connect(tcp.local_addr().unwrap()).map(drop)),
                    ("bind a TCP port", TcpListener::bind("127.0.0.1:0").map(drop)),
                    ("bind one on every address", TcpListener::bind("[::]:0").map(drop)),
                    ("connect to an abstract socket", UnixStream::connect_addr(local).map(drop)),
                    ("kill a process", child.lock().unwrap().kill()),
                ]
            })
            .join()
            .unwrap()
    });
    (missing, attempts)
}

/// Does the same in its own folder as sled.
fn work_in(folder: &Path) -> io::Result<()> {
    let nested = folder.join("db/blobs");
    fs::create_dir_all(&nested)?;
    fs::write(nested.join("1.part"), "12")?;
    fs::rename(nested.join("1.part"), nested.join("1"))?;
    OpenOptions::new().write(true).open(nested.join("1"))?.set_len(1)?;
    File::open(nested.join("1"))?.sync_all()?;
    assert_eq!(fs::read_to_string(nested.join("1"))?, "1");
    assert_eq!(fs::read_dir(&nested)?.count(), 1);
    fs::rename(folder.join("db"), folder.join("db.2"))?;
    fs::remove_dir_all(folder.join("db.2"))
}

#[test]
fn a_sandboxed_service_reaches_nothing_but_its_own_folder() {
    check_sandbox(None);
}

#[test]
fn a_sandboxed_replica_reaches_its_broker_too_and_nothing_else() {
    check_sandbox(Some(&TcpListener::bind("127.0.0.1:0").unwrap()));
}

fn check_sandbox(broker: Option<&TcpListener>) {
    let broker = broker.map(|broker| broker.local_addr().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path();
    for name in ["users", "posts"] {
        fs::create_dir(data.join(name)).unwrap();
        fs::write(data.join(name).join("db.json"), name).unwrap();
    }
    fs::write(data.join("posts/own"), "").unwrap();
    fs::copy("/bin/true", data.join("posts/program")).unwrap();
    symlink(data.join("users/db.json"), data.join("posts/link")).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let local = SocketAddr::from_abstract_name(format!("sandbox-{}-{}", std::process::id(), broker.is_some())).unwrap();
    let _listener = UnixListener::bind_addr(&local).unwrap();
    let child = Mutex::new(Command::new("sleep").arg("60").spawn().unwrap());
    let mut before = File::open(data.join("users/db.json")).unwrap();

    let (missing, attempts) = thread::scope(|scope| {
        let inside = scope.spawn(|| {
            let ports: Vec<u16> = broker.iter().map(|broker| broker.port()).collect();
            let tried = break_out(data, &ports, &tcp, &local, &child);
            if let (Some(broker), (None, _)) = (broker, &tried) {
                TcpStream::connect(broker).unwrap();
                fs::read("/etc/hosts").unwrap();
                OpenOptions::new().append(true).open("/etc/hosts").unwrap_err();
            }
            // Files opened before stay open, and its own folder stays usable.
            let mut text = String::new();
            before.read_to_string(&mut text).unwrap();
            assert_eq!(text, "users");
            work_in(&data.join("posts")).unwrap();
            tried
        });
        inside.join().unwrap()
    });
    let still_runs = child.lock().unwrap().try_wait().unwrap().is_none();
    child.lock().unwrap().kill().unwrap();
    child.lock().unwrap().wait().unwrap();

    if let Some(missing) = missing {
        assert!(env::var_os("CI").is_none(), "CI is set, so nothing may be skipped: this kernel cannot {missing}");
        eprintln!("skipped: this kernel cannot {missing}; the sandbox is not tested");
        return;
    }
    for (what, result) in attempts {
        // Between folders the error is EXDEV, as between two file systems, so that programs copy instead.
        let kind = result.map_err(|error| error.kind());
        assert!(
            matches!(kind, Err(ErrorKind::PermissionDenied | ErrorKind::CrossesDevices)),
            "it could {what}, or failed for another reason: {kind:?}"
        );
    }
    assert!(still_runs, "the process outside was killed");
    assert_eq!(fs::read_to_string(data.join("users/db.json")).unwrap(), "users");
    assert_eq!(fs::read_dir(data.join("users")).unwrap().count(), 1);

    // From outside the attempts succeed, so it was the sandbox that refused them.
    assert_eq!(fs::read_to_string(data.join("posts/link")).unwrap(), "users");
    TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
    UnixStream::connect_addr(&local).unwrap();
    assert!(Command::new(data.join("posts/program")).status().unwrap().success());
}

#[test]
fn a_sandbox_around_an_absent_folder_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let error = sandbox::enter(&dir.path().join("absent"), &[]).unwrap_err().to_string();
    assert!(error.contains("absent") && error.contains("--no-sandbox"), "{error}");
    fs::read_dir("/").unwrap();
}
