//! Tests deploy/push and deploy/deploy: real pushes to a real registry, real AWS calls to moto's server.
//!
//! moto keeps only a part of a stack. The tests read that part back from it and the rest from the template.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;
use world::compose::{can_build, copy_sources};
use world::{Process, get, root, skip, text, tool, try_get, wait_for};

const SERVICES: [&str; 3] = ["users", "threads", "posts"];
const REGION: &str = "eu-central-1";

fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?} does not run: {error}"))
}

/// Runs a command and panics if it fails; returns its output.
fn ok(command: &mut Command) -> String {
    let output = run(command);
    assert!(output.status.success(), "{command:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// Runs a command and checks its status; returns its messages.
fn fails(status: i32, command: &mut Command) -> String {
    let output = run(command);
    let messages = text(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{command:?}: {messages}");
    assert_eq!(text(&output.stdout), "", "{command:?}");
    messages
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder can be made")
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn string(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no string: {value}"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("no list: {value}"))
}

fn script(name: &str) -> Command {
    script_of(root(), name)
}

/// Returns a script of the repository at `root`.
fn script_of(root: &Path, name: &str) -> Command {
    let mut command = Command::new(root.join("deploy").join(name));
    // Keeps the user's own account out of the test.
    command.env_remove("AWS_PROFILE").env("AWS_CONFIG_FILE", "/dev/null");
    command
}

fn docker(arguments: &[&str]) -> Command {
    let mut command = Command::new("docker");
    command.args(arguments);
    command
}

fn sorted<T: Ord + Debug>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    items.into_iter().collect::<BTreeSet<_>>().into_iter().collect()
}

#[test]
fn a_wrong_command_line_is_refused_with_help() {
    for (name, arguments) in [
        ("push", &[][..]),
        ("push", &["registry.example.com", "v1", "more"]),
        ("push", &["--what"]),
        ("push", &["https://registry.example.com"]),
        ("push", &["registry.example.com", "no tag"]),
        ("deploy", &[REGION]),
        ("deploy", &["nowhere", "forum"]),
        ("deploy", &[REGION, "no_stack"]),
        ("deploy", &[REGION, "forum", "--images"]),
    ] {
        fails(2, script(name).args(arguments));
    }
    for name in ["push", "deploy"] {
        let help = ok(script(name).arg("--help"));
        assert!(help.contains(&format!("deploy/{name} RE")) && help.contains("--dry-run"), "{help}");
    }
}

// --- To a registry ---------------------------------------------------------------------------------------------------

/// Debian's registry on a free loopback port, with its own storage.
struct Registry {
    process: Process,
    address: SocketAddr,
    storage: TempDir,
}

impl Registry {
    fn start() -> Option<Self> {
        let program = tool("docker-registry", "the push to a registry")?;
        let storage = folder();
        let settings = storage.path().join("config.yml");
        let content = json!({
            "version": 0.1,
            "http": { "addr": "127.0.0.1:0" },
            "storage": { "filesystem": { "rootdirectory": storage.path().join("images") } },
        });
        fs::write(&settings, content.to_string()).expect("it can be written");
        let mut process = Process::start(Command::new(program).arg("serve").arg(settings));
        let line = process.await_line("listening on ");
        let address = line.split('"').next().unwrap_or_default().parse().expect("the log names an address");
        Some(Self { process, address, storage })
    }

    fn image(&self, name: &str, tag: &str) -> String {
        format!("{}/{name}:{tag}", self.address)
    }

    /// Returns the tags of a repository.
    fn tags(&self, name: &str) -> Vec<String> {
        let (status, _, body) = get(self.address, &format!("/v2/{name}/tags/list"));
        if status == 404 {
            return Vec::new();
        }
        let answer: Value = parse(&body);
        sorted(list(&answer["tags"]).iter().map(|tag| string(tag).to_owned()))
    }

    /// Returns the digest that a tag stands for.
    fn digest(&self, name: &str, tag: &str) -> String {
        let repositories = self.storage.path().join("images/docker/registry/v2/repositories");
        let link = repositories.join(name).join("_manifests/tags").join(tag).join("current/link");
        fs::read_to_string(link).expect("the tag is there")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // Removes the names that the test gave its images on this machine.
        let images = run(&mut docker(&["images", "--format", "{{.Repository}}:{{.Tag}}"]));
        let prefix = format!("{}/", self.address);
        for image in text(&images.stdout).lines().filter(|image| image.starts_with(&prefix)) {
            run(&mut docker(&["rmi", image]));
        }
    }
}

/// A container that ends with its test.
struct Container(String);

impl Drop for Container {
    fn drop(&mut self) {
        run(&mut docker(&["rm", "--force", "--volumes", &self.0]));
    }
}

/// Starts an image as the template does, with only its data writable; returns the container and its address.
fn start_image(name: &str, image: &str, data: &Path) -> (Container, SocketAddr) {
    let mut command = docker(&["run", "--detach", "--publish", "127.0.0.1::3000", "--user", "65532:65532"]);
    command.args(["--read-only", "--cap-drop", "ALL"]);
    // As on ECS, an empty folder is filled from the slice.
    command.arg("--volume").arg(format!("{}:/slice:ro", data.join(name).display()));
    command.args(["--volume", "/data", image, "--slice", "/slice/db.json"]);
    let container = Container(ok(&mut command).trim().to_owned());
    let address = ok(&mut docker(&["port", &container.0, "3000"]));
    (container, address.lines().next().unwrap_or_default().parse().expect("Docker names an address"))
}

#[test]
fn a_program_names_the_last_commit_of_what_it_is_made_from() {
    let copy = folder();
    copy_sources(copy.path());
    let revision = |name: &str| ok(script_of(copy.path(), "revision").arg(name)).trim().to_owned();
    assert_eq!(revision("posts"), "", "the copy is no repository of its own");
    let git = |arguments: &[&str]| ok(Command::new("git").current_dir(copy.path()).args(arguments));
    let commit = || {
        let person = ["-c", "user.name=test", "-c", "user.email=test@localhost"];
        git(&["add", "."]);
        git(&[&person[..], &["commit", "--quiet", "--message", "test"]].concat());
        git(&["rev-parse", "--short", "HEAD"]).trim().to_owned()
    };
    git(&["init", "--quiet"]);
    let first = commit();
    // A commit to one service is named by no other, whose image stays the same; what is not committed is said.
    fs::write(copy.path().join("posts/notes"), "new").unwrap();
    assert_eq!(["users", "posts"].map(revision), [first.clone(), format!("{first}+")]);
    let second = commit();
    assert_ne!(second, first);
    assert_eq!(["users", "seed", "posts"].map(revision), [first.clone(), first.clone(), second]);
    fs::write(copy.path().join("shared/notes"), "new").unwrap();
    let third = commit();
    assert_eq!(["users", "seed", "posts"].map(revision), [&third; 3].map(|revision| revision.clone()));
    if can_build() {
        let dry = run(script_of(copy.path(), "push").args(["registry.example.com", "v1", "--dry-run"]));
        assert_eq!(text(&dry.stderr).matches(&format!("--build-arg REVISION={third} ")).count(), 3, "{dry:?}");
    }
}

#[test]
#[ignore = "it builds for minutes; ./test runs it"]
fn pushed_images_can_be_pulled_and_run_and_a_tag_is_never_moved() {
    if !can_build() {
        return;
    }
    let Some(mut registry) = Registry::start() else { return };
    let copy = folder();
    copy_sources(copy.path());
    let push = |tag: &str| {
        let mut command = script_of(copy.path(), "push");
        command.args([&registry.address.to_string(), tag]);
        command
    };
    let tags = || SERVICES.map(|name| registry.tags(name));
    let names = |tag: &str| SERVICES.map(|name| registry.image(name, tag) + "\n").concat();

    // A dry run pushes nothing.
    let and_seed = |tag| names(tag) + &registry.image("seed", tag) + "\n";
    assert_eq!(ok(push("v1").arg("--dry-run")), names("v1"));
    assert_eq!(ok(push("v1").args(["--dry-run", "--seed"])), and_seed("v1"));
    assert_eq!(tags(), [[""; 0]; 3]);

    assert_eq!(ok(&mut push("v1")), names("v1"));
    assert_eq!(tags(), [["v1"]; 3]);

    // Removed here, the images can be pulled again, and they serve.
    let dir = folder();
    let data = dir.path().join("data");
    world::split(&world::sample(), &data);
    ok(Command::new("chmod").args(["-R", "a+rwX"]).arg(dir.path()));
    for (name, path, body) in [
        ("users", "/api/users/1", r#"{"id":1,"#),
        ("threads", "/api/threads/1", r#"{"id":1,"#),
        ("posts", "/api/posts/4", r#"{"id":4,"thread":1,"text":"안녕하세요! 👋","user":4}"#),
    ] {
        let image = registry.image(name, "v1");
        ok(&mut docker(&["rmi", &image]));
        ok(&mut docker(&["pull", &image]));
        let (_container, address) = start_image(name, &image, &data);
        wait_for(name, || try_get(address, "/ready").is_some_and(|got| got.0 == 200));
        let (status, _, answer) = get(address, path);
        assert!(status == 200 && answer.starts_with(body), "{status} {answer}");
    }

    // Pushing the same images again does nothing.
    let again = run(&mut push("v1"));
    assert_eq!((again.status.code(), text(&again.stdout)), (Some(0), names("v1")));
    assert_eq!(text(&again.stderr).matches("is there already, and is this image").count(), 3);

    // The third tag holds another image, so the first two images are not pushed either.
    let other = registry.image("posts", "v2");
    ok(&mut docker(&["tag", &registry.image("users", "v1"), &other]));
    ok(&mut docker(&["push", &other]));
    let held = registry.digest("posts", "v2");
    let refusal = fails(5, &mut push("v2"));
    assert!(
        refusal.contains(&format!("{other} is there already and is another image; nothing was pushed")),
        "{refusal}"
    );
    assert_eq!(tags(), [vec!["v1"], vec!["v1"], vec!["v1", "v2"]]);
    assert_eq!(registry.digest("posts", "v2"), held);

    // A push that was interrupted after the first image is completed.
    let first = registry.image("users", "v3");
    ok(&mut docker(&["tag", &registry.image("users", "v1"), &first]));
    ok(&mut docker(&["push", &first]));
    assert_eq!(ok(&mut push("v3")), names("v3"));
    assert_eq!(tags(), [vec!["v1", "v3"], vec!["v1", "v3"], vec!["v1", "v2", "v3"]]);

    // With seed, as deploy/kubernetes needs it.
    let seed = registry.image("seed", "v3");
    assert_eq!(ok(push("v3").arg("--seed")), names("v3") + &seed + "\n");
    ok(&mut docker(&["rmi", &seed]));
    assert!(ok(&mut docker(&["run", "--rm", &seed, "--version"])).starts_with("seed "));

    // A registry that does not answer is not taken for an empty one.
    let mut after = push("v4");
    registry.process.signal("TERM");
    registry.process.wait();
    let refusal = fails(6, &mut after);
    assert!(refusal.contains("the registry does not say what"), "{refusal}");
}

/// A machine within this one, with its own network, hosts file, Docker engine and AWS, and without a way out. An ECR
/// host name leads to our registry there.
struct Machine {
    process: Process,
    dir: TempDir,
}

impl Machine {
    const HOST: &str = "123456789012.dkr.ecr.eu-central-1.amazonaws.com";

    /// The script that starts everything; the registry requires the name and password that moto's ECR hands out.
    const SET_UP: &str = r#"
        ip link set lo up
        mkdir config && ln -s ~/.docker/cli-plugins config/ # where a client may keep what it builds with
        openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out certificate.pem -days 2 -subj "/CN=$HOST" \
          -addext "subjectAltName=DNS:$HOST" 2>/dev/null
        mkdir -p "docker/certs.d/$HOST"
        cp certificate.pem "docker/certs.d/$HOST/ca.crt"
        mount --bind docker /etc/docker
        printf '127.0.0.1 localhost\n127.0.0.1 %s\n' "$HOST" >hosts
        mount --bind hosts /etc/hosts
        perl -e 'print "AWS:", crypt("123456789012-auth-token", q($2y$05$abcdefghijklmnopqrstuu)), "\n"' >passwords
        printf '%s' '{"version":0.1,"storage":{"filesystem":{"rootdirectory":"images"}},"http":{"addr":"127.0.0.1:443",
          "tls":{"certificate":"certificate.pem","key":"key.pem"}},"auth":{"htpasswd":{"realm":"ECR","path":"passwords"}}}' >registry.yml
        docker-registry serve registry.yml &
        dockerd --data-root "$PWD/engine" --exec-root "$PWD/run" --host "$DOCKER_HOST" --pidfile "$PWD/pid" --bridge none \
          --iptables=false --ip6tables=false &
        moto_server --port 5000 &
        until docker info && aws ecr describe-repositories && (: </dev/tcp/127.0.0.1/443); do sleep 0.1; done >/dev/null 2>&1
        echo up and running
        wait
    "#;

    fn start() -> Option<Self> {
        let what_for = "the push to ECR";
        for name in [
            "unshare",
            "nsenter",
            "ip",
            "openssl",
            "perl",
            "dockerd",
            "docker",
            "docker-registry",
            "moto_server",
            "aws",
        ] {
            tool(name, what_for)?;
        }
        if !can_build() {
            return None;
        }
        if ok(Command::new("id").arg("-u")).trim() != "0" {
            skip("a machine within this one needs root; the push to ECR is not tested");
            return None;
        }
        let dir = folder();
        let mut command = Command::new("unshare");
        command.args([
            "--mount",
            "--net",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "bash",
            "-ec",
            Self::SET_UP,
        ]);
        Self::describe(command.current_dir(dir.path()), dir.path());
        let mut process = Process::start(&mut command);
        process.await_line("up and running");
        Some(Self { process, dir })
    }

    /// Sets the environment of a process in it.
    fn describe(command: &mut Command, dir: &Path) {
        command.env("HOST", Self::HOST).env("DOCKER_HOST", format!("unix://{}", dir.join("engine.sock").display()));
        command.env("DOCKER_CONFIG", dir.join("config")).env("AWS_ENDPOINT_URL", "http://127.0.0.1:5000");
        for name in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"] {
            command.env_remove(name);
        }
        credentials(command);
    }

    /// Returns the id of its init process, whose end ends the machine.
    fn init(&self) -> String {
        let unshare = self.process.id();
        let children = fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children"));
        children.unwrap_or_default().trim().to_owned()
    }

    /// Returns a command that runs in it.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.init(), "--mount", "--net", "--pid", "--wdns=/", "--"]).arg(program);
        Self::describe(&mut command, self.dir.path());
        command
    }

    fn aws(&self, arguments: &[&str]) -> Value {
        parse(&ok(self.command("aws").args(arguments).args(["--output", "json"])))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // unshare ends when everything in it has ended, and ignores SIGTERM until then.
        let _ = Command::new("kill").args(["-KILL", &self.init()]).status();
    }
}

#[test]
#[ignore = "it builds for minutes; ./test runs it"]
fn in_ecr_repositories_are_created_docker_is_logged_in_and_a_tag_is_never_moved() {
    let Some(machine) = Machine::start() else { return };
    // The script is the real one, with a short Dockerfile: this machine cannot reach any base image.
    let project = machine.dir.path().join("project");
    fs::create_dir_all(project.join("deploy")).unwrap();
    for file in ["deploy/push", "plan"] {
        fs::copy(root().join(file), project.join(file)).unwrap();
    }
    let dockerfile = |version: u8| {
        let stage = format!("FROM scratch AS service\nARG SERVICE\nCOPY Dockerfile /${{SERVICE}}{version}\n");
        fs::write(project.join("Dockerfile"), stage).unwrap();
    };
    dockerfile(1);
    let push = || {
        let mut command = machine.command(project.join("deploy/push"));
        command.arg(format!("{}/forum", Machine::HOST));
        command
    };
    let names = SERVICES.map(|name| format!("{}/forum/{name}:v1\n", Machine::HOST)).concat();
    let repositories = || list(&machine.aws(&["ecr", "describe-repositories"])["repositories"]).to_vec();

    // A dry run changes nothing and prints every command.
    let dry = run(push().arg("--dry-run"));
    assert_eq!((dry.status.code(), text(&dry.stdout)), (Some(0), names.clone()));
    for words in ["aws ecr create-repository", "docker build", "docker push"] {
        assert_eq!(text(&dry.stderr).matches(words).count(), 3, "{}", text(&dry.stderr));
    }
    assert!(text(&dry.stderr).contains("docker login --username AWS --password-stdin"), "{}", text(&dry.stderr));
    assert!(repositories().is_empty());
    assert!(!machine.dir.path().join("images").exists());

    assert_eq!(ok(&mut push()), names);
    let made = repositories();
    assert_eq!(
        sorted(made.iter().map(|made| string(&made["repositoryName"]))),
        ["forum/posts", "forum/threads", "forum/users"]
    );
    for made in &made {
        assert_eq!(made["imageTagMutability"], "IMMUTABLE");
        assert_eq!(made["imageScanningConfiguration"]["scanOnPush"], true);
    }
    // The registry serves them only after a login.
    for name in SERVICES {
        let image = format!("{}/forum/{name}:v1", Machine::HOST);
        ok(machine.command("docker").args(["rmi", &image]));
        ok(machine.command("docker").args(["pull", &image]));
        let stranger = run(machine.command("docker").args(["pull", &image]).env("DOCKER_CONFIG", "/nowhere"));
        assert!(!stranger.status.success(), "{image} can be pulled without a login");
    }

    assert_eq!(ok(&mut push()), names, "the same images again");
    assert_eq!(repositories().len(), 3);
    dockerfile(2);
    let refusal = fails(5, &mut push());
    assert!(refusal.contains("is there already and is another image; nothing was pushed"), "{refusal}");
}

// --- To ECS ----------------------------------------------------------------------------------------------------------

fn credentials(command: &mut Command) {
    command.env_remove("AWS_PROFILE").env("AWS_CONFIG_FILE", "/dev/null").env("AWS_DEFAULT_REGION", REGION);
    command.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test").env("AWS_PAGER", "");
}

/// moto's server: an empty AWS account that ends with its test.
struct Aws {
    _process: Process,
    address: SocketAddr,
    dir: TempDir,
}

impl Aws {
    fn start() -> Option<Self> {
        tool("aws", "the way to ECS")?;
        let mut process = Process::start(Command::new(tool("moto_server", "the way to ECS")?).args(["--port", "0"]));
        let address = process.await_line("Running on http://").trim().parse().expect("the log names an address");
        Some(Self { _process: process, address, dir: folder() })
    }

    fn at_home(&self, mut command: Command) -> Command {
        credentials(&mut command);
        command.env("AWS_ENDPOINT_URL", format!("http://{}", self.address));
        command
    }

    fn cli(&self, arguments: &[&str]) -> Command {
        let mut command = self.at_home(Command::new("aws"));
        command.args(arguments).args(["--output", "json"]);
        command
    }

    fn get(&self, arguments: &[&str]) -> Value {
        parse(&ok(&mut self.cli(arguments)))
    }

    fn deploy(&self, stack: &str, arguments: &[&str]) -> Command {
        let mut command = self.at_home(script("deploy"));
        command.args([REGION, stack]).args(arguments);
        command
    }

    /// Puts three images into ECR as a push does, and splits the sample; returns the arguments that name both.
    fn prepare(&self) -> [String; 4] {
        let mut images = String::new();
        for name in SERVICES {
            self.get(&["ecr", "create-repository", "--repository-name", name]);
            self.put_image(name, "v1");
            images += &format!("{}/{name}:v1\n", Machine::HOST);
        }
        let (file, data) = (self.dir.path().join("images"), self.dir.path().join("data"));
        fs::write(&file, images).expect("it can be written");
        world::split(&world::sample(), &data);
        ["--images".to_owned(), path(&file), "--data".to_owned(), path(&data)]
    }

    fn put_image(&self, name: &str, tag: &str) {
        let kind = "application/vnd.docker.distribution.manifest.v2+json";
        let manifest = json!({ "schemaVersion": 2, "mediaType": kind, "layers": [],
            "config": { "mediaType": "application/vnd.docker.container.image.v1+json", "size": 2, "digest": format!("sha256:{name}-{tag}") } });
        let manifest = manifest.to_string();
        self.get(&["ecr", "put-image", "--repository-name", name, "--image-tag", tag, "--image-manifest", &manifest]);
    }

    /// Returns a function from a stack's names of its resources to their AWS ids.
    fn resources(&self, stack: &str) -> impl Fn(&str) -> String + use<> {
        let all = self.get(&["cloudformation", "list-stack-resources", "--stack-name", stack]);
        move |name| {
            let all = list(&all["StackResourceSummaries"]);
            let found = all.iter().find(|one| one["LogicalResourceId"] == name);
            string(&found.unwrap_or_else(|| panic!("no {name}"))["PhysicalResourceId"]).to_owned()
        }
    }
}

fn path(path: &Path) -> String {
    path.to_str().expect("the path is text").to_owned()
}

fn title(name: &str) -> String {
    name[..1].to_uppercase() + &name[1..]
}

#[test]
#[ignore = "it builds for minutes; ./test runs it"]
fn a_stack_has_the_entrances_rules_and_target_groups_and_a_role_and_a_security_group_for_each_service() {
    let Some(aws) = Aws::start() else { return };
    let arguments = aws.prepare();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let empty = || {
        assert_eq!(aws.get(&["cloudformation", "list-stacks"])["StackSummaries"], json!([]));
        assert_eq!(aws.get(&["s3api", "list-buckets"])["Buckets"], json!([]));
    };

    // Missing arguments are reported before anything is created.
    let refusal = fails(3, &mut aws.deploy("forum", &[]));
    assert!(refusal.contains("--data"), "{refusal}");
    let refusal = fails(3, &mut aws.deploy("forum", &arguments[2..]));
    assert!(refusal.contains("--images"), "{refusal}");
    let absent = format!("PostsImage={}/posts:v7", Machine::HOST);
    let refusal = fails(3, aws.deploy("forum", &arguments).arg(absent));
    assert!(refusal.contains("posts:v7 is not there"), "{refusal}");
    fails(3, aws.deploy("forum", &arguments[2..]).args(["--images", "/nowhere"]));
    fails(3, aws.deploy("forum", &arguments[..2]).args(["--data", "/nowhere"]));
    fails(2, aws.deploy("forum", &arguments).arg("NoSuchParameter=1"));
    let dry = run(aws.deploy("forum", &arguments).arg("--dry-run"));
    assert_eq!((dry.status.code(), text(&dry.stdout)), (Some(0), String::new()));
    for (words, times) in [("aws s3 mb ", 1), ("aws s3 cp ", 3), ("aws cloudformation deploy ", 1)] {
        assert_eq!(text(&dry.stderr).matches(words).count(), times, "{}", text(&dry.stderr));
    }
    empty();

    let url = ok(&mut aws.deploy("forum", &arguments));
    let id = aws.resources("forum");
    let balancer = aws.get(&["elbv2", "describe-load-balancers", "--load-balancer-arns", &id("Entrance")]);
    let balancer = &balancer["LoadBalancers"][0];
    assert_eq!(url, format!("http://{}\n", string(&balancer["DNSName"])));
    assert_eq!(balancer["SecurityGroups"], json!([id("EntranceSecurityGroup")]));

    // The listener has the monolith's own answers, then one path rule per collection, and 404 for the rest.
    let listeners = aws.get(&["elbv2", "describe-listeners", "--load-balancer-arn", &id("Entrance")]);
    assert_eq!(list(&listeners["Listeners"]).len(), 1);
    assert_eq!(listeners["Listeners"][0]["Port"], 80);
    let rules = aws.get(&["elbv2", "describe-rules", "--listener-arn", &id("HttpListener")]);
    let rules: Vec<_> = list(&rules["Rules"]).iter().map(summary).collect();
    let forward = |priority: u16, name: &str| {
        format!("{priority} /api/{name} /api/{name}/* -> {}", id(&format!("{}Targets", title(name))))
    };
    assert_eq!(
        rules,
        [
            "1 / GET HEAD -> 200 Ready to receive requests".to_owned(),
            "2 /api /api/ GET HEAD -> 200 API ready to receive requests".to_owned(),
            format!(
                "3 / /api /api/ -> 405 {}",
                problem(405, "Method Not Allowed", "This path answers to GET and HEAD.")
            ),
            forward(3001, "users"),
            forward(3002, "threads"),
            forward(3003, "posts"),
            format!("default -> 404 {}", problem(404, "Not Found", "There is nothing at this path.")),
        ]
    );

    for name in SERVICES {
        let own = |what: &str| id(&(title(name) + what));
        let group = aws.get(&["elbv2", "describe-target-groups", "--target-group-arns", &own("Targets")]);
        let group = &group["TargetGroups"][0];
        for (setting, value) in [
            ("TargetType", json!("ip")),
            ("Protocol", json!("HTTP")),
            ("Port", json!(3000)),
            ("HealthCheckPath", json!("/ready")),
            ("HealthCheckIntervalSeconds", json!(5)),
            ("HealthCheckTimeoutSeconds", json!(2)),
            ("HealthyThresholdCount", json!(2)),
            ("UnhealthyThresholdCount", json!(2)),
            ("Matcher", json!({ "HttpCode": "200" })),
        ] {
            assert_eq!(group[setting], value, "{name}: {setting}");
        }

        // Traffic comes in only from the load balancer.
        let groups = aws.get(&["ec2", "describe-security-groups", "--group-ids", &own("SecurityGroup")]);
        let ingress = list(&groups["SecurityGroups"][0]["IpPermissions"]);
        assert_eq!(ingress.len(), 1, "{ingress:?}");
        assert_eq!((&ingress[0]["FromPort"], &ingress[0]["ToPort"]), (&json!(3000), &json!(3000)));
        let sources = list(&ingress[0]["UserIdGroupPairs"]);
        assert_eq!(sources.len(), 1);
        assert_eq!(sources[0]["GroupId"], id("EntranceSecurityGroup").as_str());
        assert_eq!((&ingress[0]["IpRanges"], &ingress[0]["Ipv6Ranges"]), (&json!([]), &json!([])));

        let service = aws.get(&["ecs", "describe-services", "--cluster", "forum", "--services", name]);
        let task = string(&service["services"][0]["taskDefinition"]);
        let task = aws.get(&["ecs", "describe-task-definition", "--task-definition", task]);
        let container = &task["taskDefinition"]["containerDefinitions"][1];
        for (setting, value) in [
            ("/name", json!(name)),
            ("/image", json!(format!("{}/{name}:v1", Machine::HOST))),
            ("/user", json!("65532:65532")),
            ("/readonlyRootFilesystem", json!(true)),
            ("/linuxParameters/capabilities/drop", json!(["ALL"])),
            ("/healthCheck/command", json!(["CMD", "/service", "check"])),
            ("/portMappings/0/containerPort", json!(3000)),
            ("/command", json!(["--slice", "/slice/db.json"])),
            ("/logConfiguration/options/awslogs-group", json!(own("Logs"))),
        ] {
            assert_eq!(container.pointer(setting), Some(&value), "{name}: {setting}");
        }
        let logs = aws.get(&["logs", "describe-log-groups", "--log-group-name-prefix", &own("Logs")]);
        assert_eq!(logs["logGroups"][0]["retentionInDays"], 30);
    }
    assert_eq!(sorted(SERVICES.map(|name| id(&(title(name) + "SecurityGroup")))).len(), 3);
    assert_eq!(sorted(SERVICES.map(|name| id(&(title(name) + "TaskRole")))).len(), 3);

    // Each task role reads its own slice and no other; moto enforces the policies.
    let stack = aws.get(&["cloudformation", "describe-stacks", "--stack-name", "forum"]);
    let parameter = |name: &str| {
        let all = list(&stack["Stacks"][0]["Parameters"]);
        string(&all.iter().find(|one| one["ParameterKey"] == name).unwrap()["ParameterValue"]).to_owned()
    };
    let bucket = parameter("SliceBucket");
    let sessions = SERVICES.map(|name| {
        let role = aws.get(&["iam", "get-role", "--role-name", &id(&(title(name) + "TaskRole"))]);
        let arn = string(&role["Role"]["Arn"]);
        (
            name,
            aws.get(&["sts", "assume-role", "--role-arn", arn, "--role-session-name", "test"])["Credentials"].clone(),
        )
    });
    // moto does not enforce policies from CloudFormation and shows them in Python's syntax, so they are set again as
    // JSON.
    for name in SERVICES {
        let (role, policy) = (id(&(title(name) + "TaskRole")), "its-own-slices");
        assert_eq!(aws.get(&["iam", "list-role-policies", "--role-name", &role])["PolicyNames"], json!([policy]));
        let attached = aws.get(&["iam", "list-attached-role-policies", "--role-name", &role]);
        assert_eq!(attached["AttachedPolicies"], json!([]));
        let read = aws.get(&["iam", "get-role-policy", "--role-name", &role, "--policy-name", policy]);
        let document = string(&read["PolicyDocument"]).replace('\'', "\"");
        let put =
            ["iam", "put-role-policy", "--role-name", &role, "--policy-name", policy, "--policy-document", &document];
        ok(&mut aws.cli(&put));
    }
    let address = format!("http://{}/moto-api/reset-auth", aws.address);
    assert_eq!(ureq::post(address).send("0").unwrap().status(), 200);
    for (role, session) in &sessions {
        for name in SERVICES {
            let key = parameter(&(title(name) + "Slice"));
            let copy = aws.dir.path().join(format!("{role}-{name}"));
            let mut command =
                aws.cli(&["s3api", "get-object", "--bucket", &bucket, "--key", &key, copy.to_str().unwrap()]);
            for (variable, key) in [
                ("AWS_ACCESS_KEY_ID", "AccessKeyId"),
                ("AWS_SECRET_ACCESS_KEY", "SecretAccessKey"),
                ("AWS_SESSION_TOKEN", "SessionToken"),
            ] {
                command.env(variable, string(&session[key]));
            }
            let output = run(&mut command);
            if *role == name {
                assert!(output.status.success(), "{role} cannot read its slice: {}", text(&output.stderr));
                let slice = aws.dir.path().join("data").join(name).join("db.json");
                assert_eq!(fs::read(copy).unwrap(), fs::read(slice).unwrap());
            } else {
                assert!(text(&output.stderr).contains("AccessDenied"), "{role} reads the slice of {name}");
                assert!(!copy.exists());
            }
        }
    }
}

/// Describes a listener rule in a line.
fn summary(rule: &Value) -> String {
    let mut line = string(&rule["Priority"]).to_owned();
    for condition in list(&rule["Conditions"]) {
        let values =
            condition.pointer("/PathPatternConfig/Values").or(condition.pointer("/HttpRequestMethodConfig/Values"));
        for value in list(values.unwrap_or(&condition["Values"])) {
            line = line + " " + string(value);
        }
    }
    let actions = list(&rule["Actions"]);
    assert_eq!(actions.len(), 1);
    let fixed = &actions[0]["FixedResponseConfig"];
    match string(&actions[0]["Type"]) {
        "forward" => line + " -> " + string(&actions[0]["TargetGroupArn"]),
        _ => line + " -> " + string(&fixed["StatusCode"]) + " " + string(&fixed["MessageBody"]),
    }
}

fn problem(status: u16, title: &str, detail: &str) -> String {
    format!(r#"{{"type":"about:blank","title":"{title}","status":{status},"detail":"{detail}"}}"#)
}

#[test]
#[ignore = "it builds for minutes; ./test runs it"]
fn with_a_certificate_port_80_redirects_and_an_update_changes_only_what_it_names() {
    let Some(aws) = Aws::start() else { return };
    let arguments = aws.prepare();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();

    // A refusal by CloudFormation is reported with its own status.
    let unknown = format!("Certificate=arn:aws:acm:{REGION}:123456789012:certificate/none");
    let refusal = fails(6, aws.deploy("refused", &arguments).arg(unknown));
    assert!(refusal.contains("refused was not deployed"), "{refusal}");

    let certificate = aws.get(&["acm", "request-certificate", "--domain-name", "forum.example.com"]);
    let certificate = string(&certificate["CertificateArn"]);
    ok(aws.deploy("forum", &arguments).arg(format!("Certificate={certificate}")));
    let id = aws.resources("forum");
    let listeners = aws.get(&["elbv2", "describe-listeners", "--load-balancer-arn", &id("Entrance")]);
    let on = |port: u16| {
        let all = list(&listeners["Listeners"]);
        all.iter().find(|one| one["Port"] == port).unwrap_or_else(|| panic!("nothing on {port}"))
    };
    let redirect = json!({ "Protocol": "HTTPS", "Port": "443", "StatusCode": "HTTP_301" });
    assert_eq!(on(80)["DefaultActions"][0]["RedirectConfig"], redirect);
    assert_eq!(on(443)["Certificates"][0]["CertificateArn"], certificate);
    let rules = |listener: &str| {
        let rules = aws.get(&["elbv2", "describe-rules", "--listener-arn", &id(listener)]);
        list(&rules["Rules"]).len()
    };
    assert_eq!((rules("HttpListener"), rules("HttpsListener")), (1, 7));

    // Posts ships alone; everything else stays.
    aws.put_image("posts", "v2");
    let parameters = || {
        let stack = aws.get(&["cloudformation", "describe-stacks", "--stack-name", "forum"]);
        list(&stack["Stacks"][0]["Parameters"]).to_vec()
    };
    let before = parameters();
    ok(&mut aws.deploy("forum", &[&format!("PostsImage={}/posts:v2", Machine::HOST)]));
    let changed: Vec<_> = parameters().into_iter().filter(|one| !before.contains(one)).collect();
    let expected = json!({ "ParameterKey": "PostsImage", "ParameterValue": format!("{}/posts:v2", Machine::HOST) });
    assert_eq!(changed, [expected]);
}

/// Returns the template as JSON.
fn template() -> Option<Value> {
    let mut command = Command::new(tool("aws", "the template")?);
    credentials(&mut command);
    command.args(["cloudformation", "package", "--s3-bucket", "none", "--use-json", "--template-file"]);
    Some(parse(&ok(command.arg(root().join("deploy/ecs.yaml")))))
}

#[test]
fn the_template_is_sound() {
    if let Some(lint) = tool("cfn-lint", "the template's soundness") {
        let output = run(Command::new(lint).arg(root().join("deploy/ecs.yaml")));
        assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    }
}

#[test]
fn the_templates_services_differ_only_in_names_and_are_isolated() {
    let Some(template) = template() else { return };
    let resources = template["Resources"].as_object().unwrap();
    let own = |name: &str| -> Value {
        resources.iter().filter(|(key, _)| key.starts_with(&title(name))).map(|(k, v)| (k.clone(), v.clone())).collect()
    };
    let posts = own("posts");
    assert_eq!(posts.as_object().unwrap().len(), 9);
    for (name, priority) in [("users", 3001), ("threads", 3002)] {
        let mut renamed: Value = parse(&own(name).to_string().replace(name, "posts").replace(&title(name), "Posts"));
        assert_eq!(renamed["PostsRule"]["Properties"]["Priority"], priority);
        renamed["PostsRule"]["Properties"]["Priority"] = posts["PostsRule"]["Properties"]["Priority"].clone();
        assert_eq!(renamed, posts, "{name} differs from posts in more than its name");
    }

    // Checks the parts that moto does not keep, once, since the three services are the same.
    let reference = |name: &str| json!({ "Ref": name });
    let arn = |name: &str| json!({ "Fn::GetAtt": [name, "Arn"] });
    for (pointer, value) in [
        ("/PostsTask/Properties/TaskRoleArn", arn("PostsTaskRole")),
        ("/PostsTask/Properties/ExecutionRoleArn", arn("ExecutionRole")),
        ("/PostsTask/Properties/NetworkMode", json!("awsvpc")),
        (
            "/PostsTask/Properties/ContainerDefinitions/1/DependsOn",
            json!([{ "ContainerName": "slice", "Condition": "SUCCESS" }]),
        ),
        ("/PostsTask/Properties/ContainerDefinitions/1/MountPoints/0/ReadOnly", json!(true)),
        (
            "/PostsSecurityGroup/Properties/SecurityGroupEgress",
            json!([{ "IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, "CidrIp": "0.0.0.0/0" }]),
        ),
        (
            "/PostsTargets/Properties/TargetGroupAttributes",
            json!([
                { "Key": "deregistration_delay.timeout_seconds", "Value": "30" },
                { "Key": "slow_start.duration_seconds", "Value": "30" },
            ]),
        ),
        ("/PostsService/Properties/LaunchType", json!("FARGATE")),
        ("/PostsService/Properties/LoadBalancers/0/TargetGroupArn", reference("PostsTargets")),
        (
            "/PostsService/Properties/NetworkConfiguration/AwsvpcConfiguration",
            json!({
                "Subnets": [reference("PrivateSubnetA"), reference("PrivateSubnetB")],
                "SecurityGroups": [reference("PostsSecurityGroup")],
                "AssignPublicIp": "DISABLED",
            }),
        ),
        (
            "/PostsService/Properties/DeploymentConfiguration",
            json!({
                "MinimumHealthyPercent": 100,
                "MaximumPercent": 200,
                "DeploymentCircuitBreaker": { "Enable": true, "Rollback": true },
            }),
        ),
        ("/PostsScaling/Properties/ResourceId", json!({ "Fn::Sub": "service/${Cluster}/${PostsService.Name}" })),
        ("/PostsScalingPolicy/Properties/ScalingTargetId", reference("PostsScaling")),
        ("/PostsScalingPolicy/Properties/PolicyType", json!("TargetTrackingScaling")),
    ] {
        assert_eq!(posts.pointer(pointer), Some(&value), "{pointer}");
    }

    // The load balancer's own answers are those of HAProxy.
    let haproxy = fs::read_to_string(root().join("gateway/haproxy.cfg")).unwrap();
    let mut words = 0;
    each(&template, "MessageBody", &mut |body| {
        words += 1;
        assert!(haproxy.contains(string(body)), "haproxy.cfg does not contain {body}");
    });
    assert_eq!(words, 5);
}

/// Calls `found` with every value of a key, at any depth.
fn each(value: &Value, key: &str, found: &mut impl FnMut(&Value)) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                if name == key {
                    found(member);
                } else {
                    each(member, key, found);
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| each(item, key, found)),
        _ => {}
    }
}
