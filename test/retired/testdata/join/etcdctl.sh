#!/usr/bin/env sh
. /etc/etcd/etcdctl.env
/usr/local/bin/etcdctl "$@"
