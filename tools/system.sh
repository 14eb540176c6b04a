#!/bin/sh
# Debian packages that the tests use and that Python's packages cannot bring; nothing is done where they are there.
set -eu
# Where servers lie, which is not on the PATH of Debian's ordinary users.
PATH=$PATH:/usr/sbin:/sbin
missing=
command -v unshare >/dev/null || missing="$missing util-linux"
command -v fusermount3 >/dev/null || missing="$missing fuse3 libfuse3-3"
[ -x /usr/lib/postgresql/15/bin/postgres ] || missing="$missing postgresql-15"
command -v openssl >/dev/null || missing="$missing openssl"
# Peers and foreign clients of the identity services.
command -v ip >/dev/null || missing="$missing iproute2"
command -v ocsptool >/dev/null || missing="$missing gnutls-bin"
command -v nginx >/dev/null || missing="$missing nginx-light"
command -v knotd >/dev/null || missing="$missing knot knot-dnsutils"
command -v apache2 >/dev/null || missing="$missing apache2"
[ -e /usr/lib/apache2/modules/mod_auth_openidc.so ] || missing="$missing libapache2-mod-auth-openidc"
[ -e /usr/share/java/bcpkix.jar ] || missing="$missing libbcpkix-java"
command -v javac >/dev/null || missing="$missing openjdk-17-jdk-headless"
[ -e /usr/lib/softhsm/libsofthsm2.so ] || missing="$missing softhsm2"
command -v chromium >/dev/null || missing="$missing chromium"
command -v ab >/dev/null || missing="$missing apache2-utils"
command -v wrk >/dev/null || missing="$missing wrk"
command -v curl >/dev/null || missing="$missing curl"
command -v h2load >/dev/null || missing="$missing nghttp2-client"
command -v npm >/dev/null || missing="$missing nodejs npm"
# The injector of faults for the crash matrix, and what it is compared with.
{ command -v gcc && [ -e /usr/include/stdio.h ]; } >/dev/null || missing="$missing gcc libc6-dev"
command -v strace >/dev/null || missing="$missing strace"
# A second S3 engine, with Object Lock, unlike the first one where it matters.
{ command -v radosgw && command -v ceph-osd && command -v ceph-mon; } >/dev/null || missing="$missing ceph-mon ceph-osd radosgw ceph-common"
# It judges the units of packaging/systemd; nothing is started by it.
command -v systemd-analyze >/dev/null || missing="$missing systemd"
[ -z "$missing" ] && exit 0
if [ "$(id -u)" != 0 ]; then
    echo "The tests need these packages; as root run: apt-get install$missing" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086
apt-get install -y -qq --no-install-recommends $missing
