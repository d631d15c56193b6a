//! Embeds the workspace's plan in the program: the declaration of each collection that `plan` lists.

use std::path::Path;
use std::{env, fs};

#[path = "src/topology.rs"]
#[allow(dead_code, unreachable_pub, reason = "the build script uses a part of it")]
mod topology;

fn main() {
    let root = Path::new(&env::var("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("..");
    let list = root.join("plan");
    println!("cargo::rerun-if-changed={}", list.display());
    let text = fs::read_to_string(&list).unwrap_or_else(|error| panic!("{}: {error}", list.display()));
    let plan = topology::parse(&list, &text).unwrap_or_else(|fault| panic!("{fault}"));
    let mut workspace = String::new();
    for topology::PlanLine { name, .. } in plan {
        let path = root.join(name).join("collection.json");
        println!("cargo::rerun-if-changed={}", path.display());
        let json = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        workspace += &format!("{json:?},\n");
    }
    let source =
        format!("/// The declarations of the workspace's own plan.\nconst WORKSPACE: &[&str] = &[\n{workspace}];\n");
    let out = Path::new(&env::var("OUT_DIR").expect("cargo sets it")).join("workspace.rs");
    fs::write(out, source).expect("the build folder can be written to");
}
