# One image per service, and one for the split: a static binary, its empty folder, and nothing else.
FROM rust:1-slim-bookworm AS build
WORKDIR /src
COPY . .
# Named by its target, so that crt-static concerns our binaries alone and not the build scripts and macros.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    target=$(rustc -vV | sed -n 's/^host: //p') \
 && RUSTFLAGS='-C target-feature=+crt-static' cargo build --release --locked --workspace --bins --target "$target" \
 && mkdir /out && cd "target/$target/release" && cp users threads posts seed /out/
RUN mkdir -p /empty/users /empty/threads /empty/posts

FROM scratch AS service
# A new volume takes its owner from here.
COPY --from=build --chown=65532:65532 /empty/users /data
USER 65532:65532
ENV DATA_DIR=/data LISTEN=0.0.0.0:3000
EXPOSE 3000

FROM service AS users
COPY --from=build /out/users /users
ENTRYPOINT ["/users"]

FROM service AS threads
COPY --from=build /out/threads /threads
ENTRYPOINT ["/threads"]

FROM service AS posts
COPY --from=build /out/posts /posts
ENTRYPOINT ["/posts"]

FROM scratch AS seed
COPY --from=build --chown=65532:65532 /empty /data
COPY --from=build /out/seed /seed
USER 65532:65532
ENTRYPOINT ["/seed", "--input", "/db.json", "--data", "/data"]
