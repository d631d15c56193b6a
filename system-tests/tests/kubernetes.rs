//! Tests of deploy/kubernetes: both overlays are built by kubectl, checked by Kubernetes' schemas, and read for what they
//! promise. No cluster runs here.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use world::compose::copy_sources;
use world::{root, seed, text, tool};

const SERVICES: [&str; 3] = ["posts", "threads", "users"];
const OVERLAYS: [&str; 2] = ["single", "replicas"];
const NAMESPACE: &str = "forum";

/// The programs that build and check.
struct Tools {
    kubectl: PathBuf,
    python: PathBuf,
}

impl Tools {
    fn find() -> Option<Self> {
        let kubectl = tool("kubectl", "what is applied to Kubernetes")?;
        let validate = tool("kubernetes-validate", "what is applied to Kubernetes")?;
        // It lies beside the Python that has its modules.
        let validate = fs::canonicalize(validate).unwrap();
        Some(Self { kubectl, python: validate.with_file_name("python") })
    }

    /// Returns the objects of an overlay of the repository at `root`. Each is valid.
    fn build(&self, root: &Path, overlay: &str) -> Objects {
        let folder = root.join("deploy/kubernetes/overlays").join(overlay);
        let built = Command::new(&self.kubectl).arg("kustomize").arg(&folder).output().unwrap();
        assert!(built.status.success(), "{overlay}: {}", text(&built.stderr));
        assert_eq!(text(&built.stderr), "", "{overlay}: kubectl warns");
        let script = world::root().join("system-tests/kubernetes/check.py");
        let mut check =
            Command::new(&self.python).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        // It reads all before it writes.
        check.stdin.take().unwrap().write_all(&built.stdout).unwrap();
        let checked = check.wait_with_output().unwrap();
        assert!(checked.status.success(), "{overlay} is not valid; see above");
        Objects(serde_json::from_slice(&checked.stdout).unwrap())
    }
}

/// The objects of an overlay.
struct Objects(Vec<Value>);

impl Objects {
    fn of(&self, kind: &str) -> BTreeMap<&str, &Value> {
        let found = self.0.iter().filter(|object| object["kind"] == kind);
        found.map(|object| (object["metadata"]["name"].as_str().unwrap(), object)).collect()
    }

    /// Returns the pod templates, by the name of what starts the pods.
    fn pods(&self) -> BTreeMap<&str, &Value> {
        let pods: BTreeMap<&str, &Value> = self
            .0
            .iter()
            .flat_map(|object| [(object, &object["spec"]), (object, &object["spec"]["jobTemplate"]["spec"])])
            .filter(|(_, spec)| spec["template"].is_object())
            .map(|(object, spec)| (object["metadata"]["name"].as_str().unwrap(), &spec["template"]))
            .collect();
        let kinds = ["StatefulSet", "Job", "CronJob"];
        assert_eq!(pods.len(), kinds.iter().map(|kind| self.of(kind).len()).sum::<usize>());
        pods
    }

    /// Tells whether `from` reaches `port` of `to` by the network policies.
    fn reaches(&self, from: &Pod, to: &Pod, port: &str) -> bool {
        self.admits(from, "Egress", to, port) && self.admits(to, "Ingress", from, port)
    }

    /// Tells whether the policies of `pod` admit traffic to or from `peer`: all if none is about the pod, otherwise what one
    /// of them names.
    fn admits(&self, pod: &Pod, direction: &str, peer: &Pod, port: &str) -> bool {
        let policies = self.of("NetworkPolicy");
        let about = |policy: &&&Value| {
            let spec = &policy["spec"];
            let types = spec["policyTypes"].as_array().unwrap();
            pod.namespace == NAMESPACE
                && types.contains(&json!(direction))
                && matches(&spec["podSelector"], &pod.labels)
        };
        let mut policies = policies.values().filter(about).peekable();
        let (rules, peers) = match direction {
            "Egress" => ("egress", "to"),
            _ => ("ingress", "from"),
        };
        policies.peek().is_none()
            || policies.flat_map(|policy| list(&policy["spec"][rules])).any(|rule| {
                list(&rule[peers]).iter().any(|admitted| peer.is(admitted))
                    && list(&rule["ports"])
                        .iter()
                        .any(|at| format!("{}/{}", at["port"], text_of(&at["protocol"])) == port)
            })
    }
}

/// A pod as policies see it.
#[derive(Clone)]
struct Pod {
    namespace: &'static str,
    labels: Value,
}

impl Pod {
    fn of(template: &Value) -> Self {
        Self { namespace: NAMESPACE, labels: template["metadata"]["labels"].clone() }
    }

    fn elsewhere(namespace: &'static str, labels: Value) -> Self {
        Self { namespace, labels }
    }

    /// Tells whether this is a peer that a policy names.
    fn is(&self, peer: &Value) -> bool {
        let names: Vec<&str> = peer.as_object().unwrap().keys().map(String::as_str).collect();
        assert!(names.iter().all(|name| ["namespaceSelector", "podSelector"].contains(name)), "{names:?}");
        let in_namespace = match &peer["namespaceSelector"] {
            Value::Null => self.namespace == NAMESPACE,
            selector => matches(selector, &json!({ "kubernetes.io/metadata.name": self.namespace })),
        };
        in_namespace && (peer["podSelector"].is_null() || matches(&peer["podSelector"], &self.labels))
    }
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

fn text_of(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

/// Tells whether a selector selects these labels.
fn matches(selector: &Value, labels: &Value) -> bool {
    let labelled = selector["matchLabels"]
        .as_object()
        .is_none_or(|wanted| wanted.iter().all(|(name, value)| &labels[name] == value));
    labelled
        && list(&selector["matchExpressions"]).iter().all(|expression| {
            assert_eq!(expression["operator"], "In");
            list(&expression["values"]).contains(&labels[text_of(&expression["key"])])
        })
}

fn with_overlays(work: impl Fn(&str, &Objects)) {
    let Some(tools) = Tools::find() else { return };
    OVERLAYS.iter().for_each(|overlay| work(overlay, &tools.build(root(), overlay)));
}

/// Checks what Pod Security calls restricted, and what it leaves open: https://kubernetes.io/docs/concepts/security/pod-security-standards
#[test]
fn every_pod_is_restricted() {
    with_overlays(|overlay, objects| {
        let namespace = objects.of("Namespace")[NAMESPACE];
        assert_eq!(namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "restricted");
        for (name, pod) in objects.pods() {
            let spec = &pod["spec"];
            assert_eq!(spec["automountServiceAccountToken"], false, "{overlay}: {name}");
            assert_eq!(spec["enableServiceLinks"], false, "{overlay}: {name}");
            let context = &spec["securityContext"];
            let wanted = json!([true, 65532, 65532, 65532, "RuntimeDefault"]);
            let names = ["runAsNonRoot", "runAsUser", "runAsGroup", "fsGroup"].map(|name| context[name].clone());
            let found: Vec<Value> = names.into_iter().chain([context["seccompProfile"]["type"].clone()]).collect();
            assert_eq!(json!(found), wanted, "{overlay}: {name}");
            for shared in ["hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"] {
                assert_eq!(spec[shared], Value::Null, "{overlay}: {name}");
            }
            for volume in list(&spec["volumes"]) {
                let kind = volume.as_object().unwrap().keys().find(|key| *key != "name").unwrap();
                assert!(["configMap", "emptyDir", "secret"].contains(&kind.as_str()), "{overlay}: {name}: {volume}");
            }
            for container in list(&spec["initContainers"]).iter().chain(&list(&spec["containers"])) {
                let own = json!({
                    "allowPrivilegeEscalation": false,
                    "capabilities": { "drop": ["ALL"] },
                    "readOnlyRootFilesystem": true,
                });
                assert_eq!(container["securityContext"], own, "{overlay}: {name}: {}", container["name"]);
                for bound in ["requests", "limits"] {
                    for what in ["cpu", "memory"] {
                        assert!(container["resources"][bound][what].is_string(), "{overlay}: {name}: {bound} {what}");
                    }
                }
            }
        }
    });
}

#[test]
fn every_service_has_its_volume_its_probes_its_budget_and_its_route() {
    with_overlays(|overlay, objects| {
        let sets = objects.of("StatefulSet");
        for name in SERVICES {
            let set = &sets[name]["spec"];
            let replicas = if overlay == "single" { 1 } else { 3 };
            assert_eq!(set["replicas"], replicas, "{overlay}: {name}");
            assert_eq!(set["volumeClaimTemplates"][0]["metadata"]["name"], "data");
            let labels = &set["template"]["metadata"]["labels"];
            assert!(matches(&set["selector"], labels));
            let governing = objects.of("Service")[text_of(&set["serviceName"])];
            assert_eq!(governing["spec"]["clusterIP"], "None");
            for service in [governing, objects.of("Service")[name]] {
                assert!(matches(&json!({ "matchLabels": service["spec"]["selector"] }), labels), "{service}");
            }
            let budget = objects.of("PodDisruptionBudget")[name];
            assert_eq!(budget["spec"]["maxUnavailable"], 1);
            assert!(matches(&budget["spec"]["selector"], labels));

            let pod = &set["template"]["spec"];
            let container = &pod["containers"][0];
            assert_eq!(container["image"], format!("registry.example.com/forum/{name}:v1"));
            for (probe, path) in [("livenessProbe", "/live"), ("readinessProbe", "/ready")] {
                assert_eq!(container[probe]["httpGet"], json!({ "path": path, "port": "http" }));
            }
            // A load may take any time, and lives.
            assert_eq!(container["startupProbe"], Value::Null);
            assert_eq!(container["ports"], json!([{ "name": "http", "containerPort": 3000 }]));
            let environment = |wanted: &str| {
                let found = list(&container["env"]).into_iter().find(|one| one["name"] == wanted);
                found.map(|one| text_of(&one["value"]).to_owned())
            };
            // After --drain, a service gives requests ten seconds.
            let drain: u64 = environment("DRAIN").unwrap().parse().unwrap();
            assert!(pod["terminationGracePeriodSeconds"].as_u64().unwrap() >= drain + 10 + 10);
            // A service sees its own slice, and neither the whole file nor another's.
            let mounts = list(&container["volumeMounts"]);
            let mounted = |volume: &str| mounts.iter().filter(|mount| mount["name"] == volume).collect::<Vec<_>>();
            assert!(mounted("source").is_empty());
            let [split] = mounted("split")[..] else { panic!("{mounts:?}") };
            assert_eq!(split["subPath"], format!("forum/data/{name}"));
            assert_eq!(split["readOnly"], true);
            let secrets: BTreeSet<String> = list(&pod["volumes"])
                .iter()
                .filter_map(|volume| Some(volume["secret"]["secretName"].as_str()?.to_owned()))
                .collect();
            let (own, key): (&[String], _) = match overlay {
                "single" => (&[], None),
                _ => (&[format!("key.{name}"), format!("tokens.{name}")], Some(format!("/keys/{name}.nk"))),
            };
            assert_eq!(secrets.iter().cloned().collect::<Vec<_>>(), own);
            assert_eq!(environment("BROKER_KEY"), key);
            assert_eq!(environment("BROKER").is_some(), key.is_some());

            let route = &objects.of("HTTPRoute")[name]["spec"];
            assert_eq!(route["parentRefs"], json!([{ "name": "entrance", "namespace": "entrance" }]));
            let rule = json!([{
                "matches": [{ "path": { "type": "PathPrefix", "value": format!("/api/{name}") } }],
                "backendRefs": [{ "name": name, "port": 3000 }],
            }]);
            assert_eq!(route["rules"], rule);
        }
        let others: Vec<&str> = sets.keys().copied().filter(|name| !SERVICES.contains(name)).collect();
        assert_eq!(others, if overlay == "single" { vec![] } else { vec!["brokers"] });
    });
}

/// As the policies say; a cluster's network has to enforce them.
#[test]
fn pods_reach_what_they_need_and_nothing_else() {
    with_overlays(|overlay, objects| {
        let is_replicated = overlay == "replicas";
        let pods: BTreeMap<&str, Pod> = objects.pods().into_iter().map(|(name, pod)| (name, Pod::of(pod))).collect();
        let entrance = Pod::elsewhere("entrance", json!({}));
        let names = Pod::elsewhere("kube-system", json!({ "k8s-app": "kube-dns" }));
        let other = Pod::elsewhere("kube-system", json!({}));
        let outside = Pod::elsewhere("outside", json!({}));
        let stranger = Pod { namespace: NAMESPACE, labels: json!({ "app.kubernetes.io/name": "stranger" }) };
        let all = pods.iter().map(|(name, pod)| (*name, pod)).chain([
            ("the entrance", &entrance),
            ("DNS", &names),
            ("another of the system's", &other),
            ("outside", &outside),
            ("a stranger here", &stranger),
        ]);
        let all: Vec<(&str, &Pod)> = all.collect();
        let is_service = |name: &str| SERVICES.contains(&name);
        for (from, one) in &all {
            for (to, another) in &all {
                if one.namespace != NAMESPACE && another.namespace != NAMESPACE {
                    continue;
                }
                for port in ["3000/TCP", "4222/TCP", "6222/TCP", "53/UDP", "53/TCP", "443/TCP"] {
                    let is_expected = match (*from, *to, port) {
                        ("the entrance" | "snapshots", to, "3000/TCP") => is_service(to),
                        (from, "brokers", "4222/TCP") => is_service(from) || ["streams", "snapshots"].contains(&from),
                        ("brokers", "brokers", "6222/TCP") => true,
                        (_, "DNS", "53/UDP" | "53/TCP") => is_replicated,
                        _ => false,
                    };
                    assert_eq!(objects.reaches(one, another, port), is_expected, "{overlay}: {from} to {to}, {port}");
                }
            }
        }
    });
}

#[test]
fn three_brokers_keep_the_streams_and_each_service_has_one_key() {
    let Some(tools) = Tools::find() else { return };
    let objects = tools.build(root(), "replicas");
    let brokers = &objects.of("StatefulSet")["brokers"]["spec"];
    assert_eq!(brokers["replicas"], 3);
    assert_eq!(objects.of("PodDisruptionBudget")["brokers"]["spec"]["maxUnavailable"], 1);
    assert_eq!(brokers["template"]["spec"]["topologySpreadConstraints"][0]["whenUnsatisfiable"], "DoNotSchedule");
    // The configuration is that of ./up --cluster.
    let configuration = fs::read_to_string(root().join("deploy/broker/broker.conf")).unwrap();
    assert!(configuration.contains("sync_interval: always"));
    let maps = objects.of("ConfigMap");
    let (name, map) = maps.iter().next().unwrap();
    assert_eq!(map["data"], json!({ "broker.conf": configuration }));
    let volumes = list(&brokers["template"]["spec"]["volumes"]);
    assert!(volumes.contains(&json!({ "name": "configuration", "configMap": { "name": name } })));
    // A server's variables are those that the configuration names.
    let given = list(&brokers["template"]["spec"]["containers"][0]["env"]);
    let given: BTreeSet<&str> = given.iter().map(|one| text_of(&one["name"])).collect();
    for variable in configuration.split('$').skip(1).map(|rest| rest.split([',', ' ', '\n', '}']).next().unwrap()) {
        assert!(given.contains(variable), "{variable}");
    }
    // Only the jobs have what may make and empty streams; the one that makes them sees the split that the replicas see.
    let mut holders = objects.pods();
    holders.retain(|_, pod| pod["spec"]["volumes"].to_string().contains("\"streams\""));
    assert_eq!(holders.keys().collect::<Vec<_>>(), [&"snapshots", &"streams"]);
    let source = json!({ "name": "source", "configMap": { "name": "db-json" } });
    for name in SERVICES.into_iter().chain(["streams"]) {
        assert!(list(&objects.pods()[name]["spec"]["volumes"]).contains(&source), "{name}");
    }
    let jobs = ["streams", "snapshots"].map(|name| objects.pods()[name]["spec"]["containers"][0].to_string());
    for server in 0..3 {
        assert!(jobs.iter().all(|job| job.contains(&format!("nats://brokers-{server}.brokers:4222"))), "{jobs:?}");
    }
    assert!(SERVICES.iter().all(|name| jobs[1].contains(&format!("--from=http://{name}:3000"))), "{}", jobs[1]);
    // One that takes longer than an hour is not overtaken.
    assert_eq!(objects.of("CronJob")["snapshots"]["spec"]["concurrencyPolicy"], "Forbid");
}

#[test]
fn another_plan_is_rendered_into_valid_objects() {
    let Some(tools) = Tools::find() else { return };
    let folder = tempfile::tempdir().unwrap();
    copy_sources(folder.path());
    let plan = folder.path().join("other");
    fs::create_dir(&plan).unwrap();
    fs::write(plan.join("plan"), "blog-posts 3001 blogPosts\nusers 3002\n").unwrap();
    let (plan, output) = (plan.to_str().unwrap(), folder.path().to_str().unwrap());
    let rendered = seed(["plan", "render", "--plan", plan, "--output", output]);
    assert!(rendered.status.success(), "{}", text(&rendered.stderr));
    for overlay in OVERLAYS {
        let objects = tools.build(folder.path(), overlay);
        let sets: Vec<&str> = objects.of("StatefulSet").into_keys().filter(|name| *name != "brokers").collect();
        assert_eq!(sets, ["blog-posts", "users"], "{overlay}");
        let set = objects.of("StatefulSet")["blog-posts"].to_string();
        assert!(
            set.contains("forum/data/blogPosts") && set.contains("registry.example.com/forum/blog-posts:v1"),
            "{set}"
        );
        let route = objects.of("HTTPRoute")["blog-posts"].to_string();
        assert!(route.contains("\"/api/blogPosts\""), "{route}");
    }
}
