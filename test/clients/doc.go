// Package clients has unmodified clients of Kubernetes work against a cluster of `kijabi
// up`: kubectl of three versions, client-go, helm 3 and 4, kwok, CoreDNS and Prometheus.
// The programs are built by programs/build.sh, each from a module of its own.
//
// The tests run as root, in order, on one cluster called "clients"; -short leaves out all
// but the newest kubectl, client-go and helm 4.
package clients
