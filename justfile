# The commands that people type, for https://just.systems. Each also works without it.

# Serves db.json (or the sample) on http://127.0.0.1:8080
up *arguments:
    ./up {{ arguments }}

# Passes all tests; installs what they need
test:
    ./test

# Passes the tests that need nothing else, or those that a name fits
quick *filter:
    cargo test --workspace {{ filter }}

# Checks what CI checks
ci:
    .ci/run

# Formats and lints
lint:
    cargo fmt --all
    cargo clippy --workspace --all-targets --all-features -- -D warnings

# Splits a file, or applies a newer one
seed *arguments:
    cargo run --release -p seed -- {{ arguments }}

# Brings rendered files up to plan
render:
    cargo run -p seed -- plan render

# Runs a benchmark: run, instructions, split, writes, start, backup, update, compare, text-ids
bench name *arguments:
    bench/{{ name }} {{ arguments }}

# Opens the crates' documentation
doc:
    cargo doc --workspace --no-deps --open

# Builds all images and serves them on port 80
compose:
    docker compose up --build

# Writes docs/openapi anew
openapi:
    for name in users threads posts; do cargo run -q -p $name -- openapi >docs/openapi/$name.json; done
