# The base images are arguments, so that the image can be built where only a private registry is
# reachable.
ARG BUILD_IMAGE=golang:1.26-bookworm
ARG RUN_IMAGE=debian:bookworm-slim

FROM ${BUILD_IMAGE} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN go build -trimpath -o /kmsgate ./cmd/kmsgate

FROM ${RUN_IMAGE}
RUN apt-get update \
 && apt-get install -y --no-install-recommends softhsm2 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --home-dir /var/lib/kmsgate --create-home kmsgate \
 && chmod 0700 /var/lib/kmsgate
COPY --from=build /kmsgate /usr/local/bin/kmsgate
USER 10001
EXPOSE 8443
ENTRYPOINT ["kmsgate"]
CMD ["dev", "--dir", "/var/lib/kmsgate/dev", "--listen", "0.0.0.0:8443"]
