# The base images are arguments, so that the image can be built where only a private registry is
# reachable.
ARG BUILD_IMAGE=golang:1.26-bookworm
ARG RUN_IMAGE=debian:bookworm-slim

FROM ${BUILD_IMAGE} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN make bin/kmsgate KMSGATE=/kmsgate

FROM ${RUN_IMAGE}
RUN apt-get update \
 && apt-get install -y --no-install-recommends softhsm2 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --home-dir /var/lib/kmsgate kmsgate \
 && mkdir -m 1777 /var/lib/kmsgate /ca
COPY --from=build /kmsgate /usr/local/bin/kmsgate
# The gateway writes only here, as any user. Its own directory admits nobody else.
VOLUME ["/var/lib/kmsgate", "/ca"]
USER 10001
EXPOSE 8443
# The gateway reads a seed from the first path if one is mounted there. The health check uses the socket.
ENV KMSGATE_SEED=/seed.yaml KMSGATE_ADMIN_SOCKET=/var/lib/kmsgate/dev/admin/admin.sock
HEALTHCHECK --interval=2s --timeout=2s --retries=15 CMD ["kmsgate", "user", "list"]
ENTRYPOINT ["kmsgate"]
CMD ["dev", "--dir", "/var/lib/kmsgate/dev", "--ca-file", "/ca/ca.pem", "--listen", "0.0.0.0:8443"]
