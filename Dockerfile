# walcast in a small image: built on Debian with Rust, run on Debian with nothing else, not as root.

FROM rust:1-bookworm AS build
WORKDIR /build
COPY . .
RUN cargo build --release --locked --bin walcast && strip target/release/walcast

FROM debian:bookworm-slim
# Certificate authorities, for databases that are reached with sslmode=verify-full.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /build/target/release/walcast /usr/local/bin/walcast
RUN useradd --system --no-create-home --shell /usr/sbin/nologin walcast
USER walcast
ENV WALCAST_LISTEN=0.0.0.0:4000
EXPOSE 4000
STOPSIGNAL SIGTERM
ENTRYPOINT ["walcast"]
CMD ["serve"]
