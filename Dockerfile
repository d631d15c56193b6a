# An image for each service and one for the split. Each has a static binary, its empty folder, and nothing else.
#
#   docker build --target service --build-arg SERVICE=posts .
#   docker build --target seed .
#
# --build-arg REVISION="$(deploy/revision posts)" is what its --version names.

FROM rust:1.95.0-slim-bookworm AS workspace
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY shared shared
COPY collection collection
# `member NAME PROGRAM` builds a member of the workspace as PROGRAM. Only shared packages lie beside it, so a change of
# another member rebuilds nothing here; the versions are still those of Cargo.lock. It builds for an explicit target, so
# that crt-static applies to our binaries and not to build scripts and macros. Without the backend, getrandom looks for a
# function in libc at run time, which no static program can, and then opens /dev/urandom, which the sandbox refuses. A
# collection without its own program is served by `collection`, which reads its declaration. Cargo compares the times of
# files, and its cache may come from another checkout: `touch` makes all sources look new.
RUN printf '%s\n' '#!/bin/sh' 'set -eu' 'mkdir /out' \
      'members=$(grep "^members = " Cargo.toml | grep -o "\"shared[^\"]*\"" | tr "\n" ,) package=$1' \
      'if [ ! -e "$1/Cargo.toml" ]; then package=collection && cp "$1/collection.json" /out/; fi' \
      'sed -i "s|^members = .*|members = [$members \"$package\"]|" Cargo.toml' \
      'find . -path ./target -prune -o -type f -exec touch {} +' \
      'target=$(rustc -vV | sed -n "s/^host: //p")' \
      'export RUSTFLAGS="-C target-feature=+crt-static --cfg getrandom_backend=\"linux_getrandom\""' \
      'cargo build --release --package "$package" --bins --target "$target"' \
      'cp "target/$target/release/$package" "/out/$2"' >/usr/local/bin/member \
 && chmod +x /usr/local/bin/member \
 && mkdir /empty

# Builds share cargo's downloads and compiled packages, since the members have most dependencies in common.
FROM workspace AS build-service
ARG SERVICE REVISION
COPY ${SERVICE} ${SERVICE}
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target,sharing=locked \
    member "${SERVICE}" service

# The plan and declarations, which only seed contains. As a separate stage, they rebuild seed only when they change.
FROM rust:1.95.0-slim-bookworm AS plan
COPY . /context
RUN cd /context && mkdir -p /plan /empty /brokers/1 /brokers/2 /brokers/3 \
 && cp --parents plan $(find * -maxdepth 1 -name collection.json) /plan/ \
 && for name in $(awk '{ sub(/#.*/, "") } NF { print (NF > 2 ? $3 : $1) }' plan); do mkdir "/empty/$name"; done

FROM workspace AS build-seed
# Cargo also reads the manifest of the tests' helpers, without building them.
COPY system-tests/Cargo.toml system-tests/
COPY seed seed
COPY --from=plan /plan ./
ARG REVISION
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target,sharing=locked \
    member seed seed

FROM scratch AS service
ARG SERVICE REVISION
# A new volume takes its owner from this folder.
COPY --from=workspace --chown=65532:65532 /empty /data
COPY --from=build-service /out /
USER 65532:65532
ENV DATA_DIR=/data LISTEN=0.0.0.0:3000 DECLARATION=/collection.json
EXPOSE 3000
LABEL org.opencontainers.image.licenses=MIT org.opencontainers.image.title=${SERVICE} \
      org.opencontainers.image.revision=${REVISION} \
      org.opencontainers.image.description="Serves one collection from its own database"
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s CMD ["/service", "check"]
ENTRYPOINT ["/service"]

FROM scratch AS seed
LABEL org.opencontainers.image.title=seed org.opencontainers.image.licenses=MIT \
      org.opencontainers.image.description="Splits a monolith's db.json into a database for each service"
COPY --from=plan --chown=65532:65532 /empty /data
# New volumes of compose.cluster.yaml take their owner from these.
COPY --from=plan --chown=65532:65532 /brokers /brokers
COPY --from=build-seed /out/seed /seed
USER 65532:65532
ENTRYPOINT ["/seed", "--input", "/db.json", "--data", "/data"]
