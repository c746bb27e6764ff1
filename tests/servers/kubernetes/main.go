// Command kubernetes is a real Kubernetes API server and its etcd in one binary, for tests.
//
// Kubernetes publishes no kube-apiserver as a Go program that "go install" can build (its go.mod replaces the staging
// modules), so this module does: go.mod pins Kubernetes, the etcd that its own go.mod names, and each staging module.
// The subcommands take the flags of the programs whose names they bear.
package main

import (
	"fmt"
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

func main() {
	if len(os.Args) < 2 {
		fail("a subcommand is missing")
	}
	name := os.Args[1]
	// Both programs parse os.Args themselves: the subcommand takes the place of the program's name.
	os.Args = append([]string{name}, os.Args[2:]...)
	switch name {
	case "etcd":
		etcdmain.Main(os.Args)
	case "kube-apiserver":
		os.Exit(cli.Run(app.NewAPIServerCommand()))
	default:
		fail(fmt.Sprintf("unknown subcommand %q", name))
	}
}

func fail(reason string) {
	fmt.Fprintf(os.Stderr, "kubernetes: %s; give etcd or kube-apiserver and its flags\n", reason)
	os.Exit(2)
}
