# One image per service, and one for the split: a static binary, its empty folder, and nothing else.
#
#   docker build --target posts .

FROM rust:1-slim-bookworm AS workspace
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY shared shared
# `member NAME` builds one member of the workspace. The others are not there, so that a change to one of them rebuilds
# nothing here; the versions are those of Cargo.lock all the same. Named by its target, so that crt-static concerns our
# binaries alone and not build scripts and macros.
RUN printf '%s\n' '#!/bin/sh' 'set -eu' \
      'sed -i "s/^members = .*/members = [\"shared\", \"$1\"]/" Cargo.toml' \
      'target=$(rustc -vV | sed -n "s/^host: //p")' \
      'RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --package "$1" --bins --target "$target"' \
      'mkdir /out && cp "target/$target/release/$1" /out/' >/usr/local/bin/member \
 && chmod +x /usr/local/bin/member \
 && mkdir -p /empty/users /empty/threads /empty/posts

# What cargo fetches and compiles is kept from build to build, and shared: the members depend on much the same.
FROM workspace AS build-users
COPY users users
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target,sharing=locked member users

FROM workspace AS build-threads
COPY threads threads
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target,sharing=locked member threads

FROM workspace AS build-posts
COPY posts posts
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target,sharing=locked member posts

FROM workspace AS build-seed
COPY seed seed
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target,sharing=locked member seed

FROM scratch AS service
# A new volume takes its owner from here.
COPY --from=workspace --chown=65532:65532 /empty/users /data
USER 65532:65532
ENV DATA_DIR=/data LISTEN=0.0.0.0:3000
EXPOSE 3000
LABEL org.opencontainers.image.licenses=MIT

FROM service AS users
LABEL org.opencontainers.image.title=users org.opencontainers.image.description="Serves /api/users from its own database"
COPY --from=build-users /out/users /users
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s CMD ["/users", "check"]
ENTRYPOINT ["/users"]

FROM service AS threads
LABEL org.opencontainers.image.title=threads org.opencontainers.image.description="Serves /api/threads from its own database"
COPY --from=build-threads /out/threads /threads
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s CMD ["/threads", "check"]
ENTRYPOINT ["/threads"]

FROM service AS posts
LABEL org.opencontainers.image.title=posts org.opencontainers.image.description="Serves /api/posts from its own database"
COPY --from=build-posts /out/posts /posts
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s CMD ["/posts", "check"]
ENTRYPOINT ["/posts"]

FROM scratch AS seed
LABEL org.opencontainers.image.title=seed org.opencontainers.image.licenses=MIT \
      org.opencontainers.image.description="Splits a monolith's db.json into a database for each service"
COPY --from=workspace --chown=65532:65532 /empty /data
COPY --from=build-seed /out/seed /seed
USER 65532:65532
ENTRYPOINT ["/seed", "--input", "/db.json", "--data", "/data"]
