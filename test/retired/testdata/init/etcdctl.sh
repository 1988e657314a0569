#!/usr/bin/env sh
. /etc/etcd/etcdctl.env
/opt/bin/etcdctl "$@"
