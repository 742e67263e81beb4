# syntax=docker/dockerfile:1

FROM rust:1.95-slim-bookworm AS build
WORKDIR /build
COPY . .
# The caches outlive this build: the next one compiles only what has changed.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    cargo build --release --locked --features otlp --bin finalizer \
    && cp target/release/finalizer /usr/local/bin/finalizer \
    && mkdir /data

# The C library, certificates and a user who is not root; no shell, no package manager.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /usr/local/bin/finalizer /usr/local/bin/finalizer
COPY --from=build --chown=65532:65532 /data /data
USER 65532:65532
# With the default settings everything is kept in ./finalizer-data. Nothing else is ever written: the
# root file system may be read-only.
WORKDIR /data
VOLUME /data
ENV FINALIZER_LISTEN=0.0.0.0:8080 \
    FINALIZER_PUBLIC_URL=http://localhost:8080
EXPOSE 8080
# There is no curl: `check` asks database, broker and bucket with the container's own settings.
HEALTHCHECK --interval=30s --timeout=15s --start-period=15s CMD ["finalizer", "check"]
ENTRYPOINT ["finalizer"]
CMD ["run"]
