//! Tests of `seed plan render`: the repository's own files, and files for other plans.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;
use world::{compose, program, root, skip, text, tool};

const FILES: [&str; 15] = [
    "compose.yaml",
    "compose.writes.yaml",
    "gateway/haproxy.cfg",
    "gateway/routes.map",
    "deploy/ecs.yaml",
    "compose.observe.yaml",
    "deploy/observe/alerts.yml",
    "deploy/observe/prometheus.yml",
    "compose.cluster.yaml",
    "deploy/kubernetes/base/services.yaml",
    "deploy/kubernetes/writes/services.yaml",
    "deploy/kubernetes/overlays/single/kustomization.yaml",
    "deploy/kubernetes/overlays/replicas/kustomization.yaml",
    "deploy/kubernetes/overlays/replicas/services.yaml",
    "deploy/kubernetes/overlays/replicas/snapshots.yaml",
];

fn render(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(program("seed")).args(["plan", "render"]).args(arguments).current_dir(folder).output().unwrap()
}

/// Copies the files, with another list of collections.
fn copy(plan: &str) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in FILES.into_iter().chain(["compose.tls.yaml", "compose.replicas.yaml"]) {
        let to = copy.path().join(file);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(root().join(file), to).unwrap();
    }
    fs::write(copy.path().join("plan"), plan).unwrap();
    copy
}

fn read(folder: &Path) -> [String; 15] {
    FILES.map(|file| fs::read_to_string(folder.join(file)).unwrap())
}

/// Returns the repository's list with a fourth collection.
fn four() -> String {
    fs::read_to_string(root().join("plan")).unwrap() + "comments 3004\n"
}

#[test]
fn the_repositorys_files_match_the_plan() {
    let output = render(root(), &["--check"]);
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    assert_eq!(text(&output.stdout), "All files match plan.\n");
}

#[test]
fn a_fourth_collection_leaves_the_others_unchanged_and_can_be_removed() {
    let copy = copy(&four());
    let before = read(root());
    let stale = render(copy.path(), &["--check"]);
    assert_eq!(stale.status.code(), Some(1), "{}", text(&stale.stderr));
    assert!(FILES.iter().all(|file| text(&stale.stdout).contains(file)), "{}", text(&stale.stdout));
    assert_eq!(read(copy.path()), before);

    assert!(render(copy.path(), &[]).status.success());
    let after = read(copy.path());
    for (file, (before, after)) in FILES.iter().zip(before.iter().zip(&after)) {
        let mut lines = after.lines();
        let missing = before.lines().find(|line| !lines.any(|other| other == *line));
        assert_eq!(missing, None, "{file}");
        assert!(after.contains("comments"), "{file}");
        let mode = |folder: &Path| fs::metadata(folder.join(file)).unwrap().permissions().mode();
        assert_eq!(mode(copy.path()), mode(root()), "{file}");
    }
    assert!(after[2].contains("presetenv COMMENTS comments:3000\n"));
    assert!(after[4].contains("\n  CommentsTaskRole:\n") && after[4].contains("\n      Priority: 3004\n"));
    assert!(render(copy.path(), &["--check"]).status.success());

    fs::copy(root().join("plan"), copy.path().join("plan")).unwrap();
    assert!(render(copy.path(), &[]).status.success());
    assert_eq!(read(copy.path()), before);
}

#[test]
fn copies_are_written_elsewhere() {
    let copy = copy("albums 4001\nopen-issues 4002\n");
    let output = tempfile::tempdir().unwrap();
    let (plan, output) = (copy.path().to_str().unwrap(), output.path().join("new"));
    let rendered = render(root(), &["--plan", plan, "--output", output.to_str().unwrap()]);
    assert!(rendered.status.success(), "{}", text(&rendered.stderr));
    let [compose, _, haproxy, routes, ..] = read(&output);
    assert!(compose.contains("SERVICE: open-issues") && !compose.contains("SERVICE: users"), "{compose}");
    assert!(haproxy.contains("\"${OPEN_ISSUES}\"") && !haproxy.contains("USERS"), "{haproxy}");
    assert!(routes.contains("\n/api/albums/ albums\n/api/open-issues/ open-issues\n"), "{routes}");
    assert!(render(root(), &["--check"]).status.success());
}

#[test]
fn a_broken_file_or_list_is_refused_and_nothing_is_changed() {
    let copy = copy(&four());
    let path = copy.path().join("deploy/ecs.yaml");
    let broken = fs::read_to_string(&path).unwrap().replacen("# plan: end", "", 1);
    fs::write(&path, broken).unwrap();
    let before = read(copy.path());
    let refused = render(copy.path(), &[]);
    assert_eq!(refused.status.code(), Some(3));
    let message = text(&refused.stderr);
    assert!(message.contains("deploy/ecs.yaml: line ") && message.contains("`# plan: end` is missing"), "{message}");
    fs::write(copy.path().join("plan"), "users 3001\nUsers 3002\n").unwrap();
    let refused = render(copy.path(), &[]);
    assert_eq!(refused.status.code(), Some(3));
    assert!(text(&refused.stderr).contains("plan: line 2: \"Users\" is not a valid name"), "{}", text(&refused.stderr));
    assert_eq!(read(copy.path()), before);
}

/// A plan of collections with unusual names, each with its own service.
const NAMED: &str = "blog-posts 3001 blogPosts
monolith-service 3002 monolith
tags 3003 Tags
tags-2 3004 tags
events 3005 2024-events
service-service 3006 service
a-b 3007 a.b~c
";

#[test]
fn paths_keep_a_collections_name_and_services_have_their_own() {
    let copy = copy(NAMED);
    let output = tempfile::tempdir().unwrap();
    let (plan, output) = (copy.path().to_str().unwrap(), output.path().join("new"));
    let rendered = render(root(), &["--plan", plan, "--output", output.to_str().unwrap()]);
    assert!(rendered.status.success(), "{}", text(&rendered.stderr));
    let [
        compose,
        writes,
        haproxy,
        routes,
        template,
        observe,
        alerts,
        prometheus,
        cluster,
        services,
        tokens,
        single,
        _,
        keys,
        snapshots,
    ] = read(&output);
    let has = |file: &str, expected: &str| assert!(file.contains(expected), "{expected:?} is not in {file}");
    has(&compose, "\n      - \"blog-posts:/data/blogPosts\"\n      - \"monolith-service:/data/monolith\"\n");
    has(&compose, "\n  blog-posts:\n    <<: *service\n");
    has(&observe, "\n  blog-posts.operators: *operators\n");
    has(&observe, "ADMIN_LISTEN: \"blog-posts.operators:9464\"");
    has(&alerts, "sum(up{job=\"blog-posts\"})");
    has(&prometheus, "names: [blog-posts.operators]");
    has(&compose, "args: { SERVICE: blog-posts } }\n    networks: [blog-posts]\n    volumes: [\"blog-posts:/data\"]");
    has(&cluster, "/keys/blogPosts.admin.nk");
    has(&cluster, "--from=http://blog-posts:3000");
    has(&snapshots, "--from=http://blog-posts:3000");
    has(&writes, "\n  blog-posts:\n    environment: { WRITE_TOKEN_FILE: /tokens/blogPosts }");
    has(&haproxy, "presetenv BLOG_POSTS blog-posts:3000\n    presetenv MONOLITH_SERVICE monolith-service:3000\n");
    has(&haproxy, "presetenv MONOLITH        off ");
    has(
        &routes,
        "\n/api/blogposts/ blog-posts\n/api/monolith/ monolith-service\n=/api/Tags/ tags\n/api/tags/ tags-2\n",
    );
    has(&template, "\n  BlogPostsTask:\n");
    has(
        &template,
        "Priority: 3001\n      Conditions: [{ Field: path-pattern, PathPatternConfig: { Values: [/api/blogPosts, /api/blogPosts/*] } }]",
    );
    has(&template, "{ Values: [/api/a.b~c, /api/a.b~c/*] }");
    has(&services, "image: blog-posts\n");
    has(&services, "subPath: forum/data/blogPosts,");
    has(&services, "value: /api/blogPosts } }]\n      backendRefs: [{ name: blog-posts, port: 3000 }]");
    has(&tokens, "value: /tokens/blogPosts }");
    has(&tokens, "secretName: tokens.blog-posts,");
    has(&single, "- { name: blog-posts, newName: registry.example.com/forum/blog-posts, newTag: v1 }");
    has(&keys, "value: /keys/blogPosts.nk }");
    has(&keys, "secretName: key.blog-posts,");
    // Rendering also leads back, from these files to the repository's plan.
    for file in FILES {
        fs::copy(output.join(file), copy.path().join(file)).unwrap();
    }
    assert!(render(copy.path(), &["--check"]).status.success());
    fs::copy(root().join("plan"), copy.path().join("plan")).unwrap();
    assert!(render(copy.path(), &[]).status.success());
    // routes.map has new lines, without people's edits.
    for (nth, (file, (back, here))) in FILES.iter().zip(read(copy.path()).iter().zip(&read(root()))).enumerate() {
        assert!(nth == 3 || back == here, "{file}");
    }
}

#[test]
fn haproxy_compose_and_cloudformation_accept_a_fourth_collection() {
    take(&four(), &["comments", "entrance", "posts", "seed", "threads", "users"]);
}

#[test]
fn haproxy_compose_and_cloudformation_accept_any_name() {
    let services = ["a-b", "blog-posts", "entrance", "events", "monolith-service", "seed", "service-service", "tags"];
    let services: Vec<&str> = services.into_iter().chain(["tags-2"]).collect();
    take(NAMED, &services);
}

/// Checks the files rendered for `plan` with the programs that read them.
fn take(plan: &str, expected: &[&str]) {
    let copy = copy(&four());
    let plan_folder = tempfile::tempdir().unwrap();
    fs::write(plan_folder.path().join("plan"), plan).unwrap();
    let (plan, output) = (plan_folder.path().to_str().unwrap(), copy.path().to_str().unwrap());
    let rendered = render(root(), &["--plan", plan, "--output", output]);
    assert!(rendered.status.success(), "{}", text(&rendered.stderr));
    let check = |command: &mut Command| {
        let output = command.current_dir(copy.path()).output().unwrap();
        assert!(output.status.success(), "{command:?}: {}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    };
    if let Some(haproxy) = tool("haproxy", "the rendered entrance") {
        check(Command::new(haproxy).args(["-c", "-f", "gateway/haproxy.cfg"]).env("ENTRANCE", "127.0.0.1:8080"));
    }
    if let Some(lint) = tool("cfn-lint", "the rendered template") {
        check(Command::new(lint).arg("deploy/ecs.yaml"));
    }
    let Some(mut compose) = compose::program() else {
        return skip("Compose is not installed; the rendered compose.yaml is not tested");
    };
    // compose.replicas.yaml replicates posts.
    let over = ["writes", "tls", "observe"].into_iter().chain(expected.contains(&"posts").then_some("replicas"));
    for over in over {
        compose.args(["--file", "compose.yaml", "--file", &format!("compose.{over}.yaml")]);
    }
    let services = check(compose.args(["config", "--services"]).env("CERTIFICATE", "/dev/null"));
    let mut services: Vec<&str> = services.lines().collect();
    // Compose 1 lists Grafana without its profile, too.
    services.retain(|name| !["prometheus", "grafana"].contains(name));
    services.sort_unstable();
    assert_eq!(services, expected);
}
