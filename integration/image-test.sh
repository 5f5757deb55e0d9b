#!/bin/sh
# Builds the image with buildah, without a Docker engine, then runs it and signs once through it.
# debootstrap makes the Debian base, which the script imports under the base images' names.
# Needs root. Installs the Debian packages that it needs.
set -eu
cd "$(dirname "$0")/.."

[ "$(id -u)" = 0 ] || { echo "image-test: must run as root" >&2; exit 1; }
packages=
for p in buildah debootstrap openssl curl; do
	dpkg -s "$p" >/dev/null 2>&1 || packages="$packages $p"
done
if [ -n "$packages" ]; then
	apt-get update -qq
	apt-get install -y -qq --no-install-recommends $packages >/dev/null
fi

work=$(mktemp -d)
name=kmsgate-image-test
export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=vfs
buildah="buildah --root $work/storage --runroot $work/run"
pid=
cleanup() {
	[ -z "$pid" ] || kill "$pid" 2>/dev/null || true
	[ -z "$pid" ] || wait "$pid" 2>/dev/null || true
	$buildah rm --all >/dev/null 2>&1 || true
	rm -rf "$work"
}
trap cleanup EXIT INT TERM

echo "== making a Debian base"
mirror=$(sed -n 's/^deb \(\[[^]]*\] \)\{0,1\}\([^ ]*\) bookworm .*/\2/p; s/^URIs: *\([^ ]*\).*/\1/p' \
	/etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | head -1)
debootstrap --variant=minbase --include=ca-certificates bookworm "$work/run-base" ${mirror:+"$mirror"} \
	>"$work/log" 2>&1 || { tail -20 "$work/log" >&2; exit 1; }
rm -rf "$work/run-base/etc/apt"
cp -a /etc/apt "$work/run-base/etc/apt"
cp -rT /etc/ssl/certs "$work/run-base/etc/ssl/certs"
cp -rT /usr/local/share/ca-certificates "$work/run-base/usr/local/share/ca-certificates"

echo "== adding a Go toolchain to a copy of it"
cp -a "$work/run-base" "$work/build-base"
chroot "$work/build-base" sh -c 'export DEBIAN_FRONTEND=noninteractive
	apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev make' \
	>"$work/log" 2>&1 || { tail -20 "$work/log" >&2; exit 1; }
cp -a "$(go env GOROOT)" "$work/build-base/usr/local/go"

import() { # DIR NAME
	container=$($buildah from scratch)
	$buildah copy -q "$container" "$1" / >/dev/null
	$buildah config \
		--env "PATH=/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" "$container"
	$buildah commit -q "$container" "$2" >/dev/null
	$buildah rm "$container" >/dev/null
	rm -rf "$1"
}
import "$work/run-base" docker.io/library/debian:bookworm-slim
import "$work/build-base" docker.io/library/golang:1.26-bookworm

echo "== building the image"
$buildah bud -q --format docker --pull-never --network host \
	-t "$name" . >"$work/log" 2>&1 || { tail -40 "$work/log" >&2; exit 1; }

echo "== running it"
container=$($buildah from --pull-never "localhost/$name")
root=$($buildah mount "$container")
config=$($buildah inspect --format '{{.Docker.Config.User}} {{.Docker.Config.Entrypoint}} {{.Docker.Config.Cmd}} {{.Docker.Config.Healthcheck.Test}} {{len .Docker.Config.Volumes}}' "$container")
want='10001 [kmsgate] [dev --dir /var/lib/kmsgate/dev --ca-file /ca/ca.pem --listen 0.0.0.0:8443] [CMD kmsgate user list] 2'
[ "$config" = "$want" ] || { echo "image-test: the image has $config, want $want" >&2; exit 1; }
# The container shares this machine's network, so the port must be free.
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])' \
	2>/dev/null || echo 18443)

# $work/in UID COMMAND… runs a command with the image's environment. The root is read-only; only
# the volumes and the seed are mounted. It is what a container engine does with --read-only --user.
cp examples/seed.yaml "$root/seed.yaml"
mkdir -m 1777 "$work/volume-lib" "$work/volume-ca"
cat >"$work/in" <<'END'
#!/bin/sh
exec unshare --mount sh -c '
	root=$1; work=$2; uid=$3; shift 3
	mount --bind "$root" "$root" && mount -o remount,bind,ro "$root" &&
	mount --bind "$work/volume-lib" "$root/var/lib/kmsgate" && mount --bind "$work/volume-ca" "$root/ca" || exit 1
	exec chroot --userspec="$uid:$uid" "$root" env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
		KMSGATE_SEED=/seed.yaml KMSGATE_ADMIN_SOCKET=/var/lib/kmsgate/dev/admin/admin.sock "$@"
' sh "$root" "$work" "$@"
END
chmod +x "$work/in"
export root work
environment=$($buildah inspect --format '{{.Docker.Config.Env}}' "$container")
case $environment in *KMSGATE_SEED=/seed.yaml*KMSGATE_ADMIN_SOCKET=/var/lib/kmsgate/dev/admin/admin.sock*) ;;
*) echo "image-test: the image's environment is $environment" >&2; exit 1 ;; esac

for uid in 10001 12345; do
	rm -rf "$work/volume-lib/dev"
	! "$work/in" $uid kmsgate user list >/dev/null 2>&1 || { echo "image-test: it is healthy before it runs" >&2; exit 1; }
	"$work/in" $uid kmsgate dev --dir /var/lib/kmsgate/dev --ca-file /ca/ca.pem --listen "127.0.0.1:$port" >"$work/out" 2>&1 &
	pid=$!
	env=$work/volume-lib/dev/env
	n=0
	until "$work/in" $uid kmsgate user list >"$work/users" 2>&1 && [ -e "$env" ]; do
		n=$((n + 1))
		if [ $n -gt 120 ] || ! kill -0 $pid 2>/dev/null; then cat "$work/out" "$work/users" >&2; exit 1; fi
		sleep 0.5
	done
	grep -q '^example ' "$work/users" || { echo "image-test: the seed's user is missing" >&2; exit 1; }
	user=$(stat -c %u "$env")
	[ "$user" = $uid ] || { echo "image-test: the gateway's files belong to user $user, want $uid" >&2; exit 1; }
	(
		. "$env"
		KMSGATE_CA_FILE=$work/volume-ca/ca.pem
		. internal/dev/call.sh
	) | tee "$work/answer"
	grep -q '"Value":"' "$work/answer"
	# The gateway is the process that a container engine would signal.
	kill -TERM $pid
	wait $pid || { echo "image-test: exit status $? after SIGTERM" >&2; cat "$work/out" >&2; exit 1; }
	pid=
	[ ! -e "$env" ] || { echo "image-test: it left $env" >&2; exit 1; }
	rm -f "$work/volume-ca/ca.pem"
done
echo "== the image builds; with a read-only root and any user it takes a seed, is healthy, signs and ends on SIGTERM"
