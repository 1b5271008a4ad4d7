// SPDX-License-Identifier: Apache-2.0
//! Which Go modules a cluster and what asks it are built from, in which versions. A change of a set makes a new folder
//! in the cache.

/// The version of the Gateway API, whose definitions and conformance tests are modules of one version each.
macro_rules! gateway_api {
    () => {
        "v1.6.3"
    };
}

/// The module with the Gateway API's definitions.
pub(super) const GATEWAY_API: &str = concat!("sigs.k8s.io/gateway-api@", gateway_api!());
/// The module with its conformance tests.
pub(super) const GATEWAY_API_TESTS: &str = concat!("sigs.k8s.io/gateway-api/conformance@", gateway_api!());

/// One module of ours that exists only to name commands of others, or to call their tests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bundle {
    /// Its name.
    pub(super) name: &'static str,
    /// Lines of its go.mod after `module` and `go`.
    pub(super) manifest: &'static str,
    /// Modules that the main one requires without a version, and the version that each really has.
    pub(super) replaced: (&'static [&'static str], &'static str),
    /// What the linker writes into the binaries.
    pub(super) stamps: &'static str,
    /// The binaries that come of it.
    pub(super) binaries: &'static [&'static str],
    /// A test of ours, of which the only binary is made, instead of the commands that the manifest names.
    pub(super) test: Option<&'static str>,
}

/// The language version of all bundles.
pub(super) const GO: &str = "1.26.0";
/// Oldest toolchain that can fetch the one it needs.
pub(super) const OLDEST_GO: (u32, u32) = (1, 21);

/// What every cluster runs, what takes longest first.
pub(super) const CLUSTER: [Bundle; 4] = [
    Bundle {
        name: "kubernetes",
        manifest: "\
godebug default=go1.26
require k8s.io/kubernetes v1.36.3
tool k8s.io/kubernetes/cmd/kube-apiserver
tool k8s.io/kubernetes/cmd/kube-controller-manager
tool k8s.io/kubernetes/cmd/kube-scheduler
tool k8s.io/kubernetes/cmd/kubelet
tool k8s.io/kubernetes/cmd/kube-proxy
tool k8s.io/kubernetes/cmd/kubectl
",
        replaced: (STAGING, "v0.36.3"),
        // Without them clients misjudge what the server can do.
        stamps: "-X k8s.io/component-base/version.gitVersion=v1.36.3 \
                 -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36",
        binaries: &[
            "kube-apiserver",
            "kube-controller-manager",
            "kube-scheduler",
            "kubelet",
            "kube-proxy",
            "kubectl",
        ],
        test: None,
    },
    Bundle {
        name: "etcd",
        manifest: "\
require go.etcd.io/etcd/server/v3 v3.6.16
tool go.etcd.io/etcd/server/v3
",
        replaced: (&[], ""),
        stamps: "",
        binaries: &["etcd"],
        test: None,
    },
    Bundle {
        name: "runtime",
        manifest: "\
require github.com/containerd/containerd/v2 v2.4.2
require github.com/containernetworking/plugins v1.9.1
tool github.com/containerd/containerd/v2/cmd/containerd
tool github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2
tool github.com/containerd/containerd/v2/cmd/ctr
tool github.com/containernetworking/plugins/plugins/main/bridge
tool github.com/containernetworking/plugins/plugins/main/loopback
tool github.com/containernetworking/plugins/plugins/main/ptp
tool github.com/containernetworking/plugins/plugins/ipam/host-local
",
        replaced: (&[], ""),
        stamps: "-X github.com/containerd/containerd/v2/version.Version=v2.4.2",
        binaries: &[
            "containerd",
            "containerd-shim-runc-v2",
            "ctr",
            "bridge",
            "ptp",
            "loopback",
            "host-local",
        ],
        test: None,
    },
    Bundle {
        name: "tools",
        manifest: "\
require helm.sh/helm/v4 v4.3.1
require github.com/coredns/coredns v1.15.0
tool helm.sh/helm/v4/cmd/helm
tool github.com/coredns/coredns
",
        replaced: (&[], ""),
        stamps: "-X helm.sh/helm/v4/internal/version.version=v4.3.1",
        binaries: &["helm", "coredns"],
        test: None,
    },
];

/// The Gateway API's conformance tests, and the server and client that its mesh tests talk between.
pub(super) const CONFORMANCE: [Bundle; 2] = [
    Bundle {
        name: "conformance",
        // The tests are a module of their own, which names the other by a path beside it.
        manifest: concat!(
            "require sigs.k8s.io/gateway-api ",
            gateway_api!(),
            "\nrequire sigs.k8s.io/gateway-api/conformance ",
            gateway_api!(),
            "\nreplace sigs.k8s.io/gateway-api => sigs.k8s.io/gateway-api ",
            gateway_api!(),
            "\n"
        ),
        replaced: (&[], ""),
        stamps: "",
        binaries: &["conformance"],
        test: Some(CONFORMANCE_TEST),
    },
    Bundle {
        name: "echo",
        // Its own go.mod names versions that were never released.
        manifest: "\
require istio.io/istio v0.0.0-20260827124520-eed52ebb66ad
replace istio.io/api => istio.io/api v1.31.1
replace istio.io/client-go => istio.io/client-go v1.31.1
replace github.com/envoyproxy/go-control-plane/envoy => github.com/envoyproxy/go-control-plane/envoy v1.40.0
replace github.com/envoyproxy/go-control-plane/contrib => \
                   github.com/envoyproxy/go-control-plane/contrib v1.36.1-0.20260729145720-a2d8c7492908
tool istio.io/istio/pkg/test/echo/cmd/server
tool istio.io/istio/pkg/test/echo/cmd/client
",
        replaced: (&[], ""),
        stamps: "",
        binaries: &["server", "client"],
        test: None,
    },
];

const CONFORMANCE_TEST: &str = r#"package conformance

import (
	"testing"

	"sigs.k8s.io/gateway-api/conformance"
)

func TestConformance(t *testing.T) { conformance.RunConformance(t) }
"#;

/// What a pod's sandbox runs: nothing, until it is told to end.
pub(super) const PAUSE: &str = r#"package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM, syscall.SIGINT)
	<-end
}
"#;

/// Modules that live in the repository of Kubernetes and are required at v0.0.0.
const STAGING: &[&str] = &[
    "api",
    "apiextensions-apiserver",
    "apimachinery",
    "apiserver",
    "cli-runtime",
    "client-go",
    "cloud-provider",
    "cluster-bootstrap",
    "code-generator",
    "component-base",
    "component-helpers",
    "controller-manager",
    "cri-api",
    "cri-client",
    "cri-streaming",
    "csi-translation-lib",
    "dynamic-resource-allocation",
    "endpointslice",
    "externaljwt",
    "kms",
    "kube-aggregator",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubectl",
    "kubelet",
    "metrics",
    "mount-utils",
    "pod-security-admission",
    "sample-apiserver",
    "sample-cli-plugin",
    "sample-controller",
    "streaming",
];

impl Bundle {
    /// The text of its go.mod.
    pub(super) fn go_mod(&self) -> String {
        let (modules, version) = self.replaced;
        let replaced: String = modules
            .iter()
            .map(|name| format!("replace k8s.io/{name} => k8s.io/{name} {version}\n"))
            .collect();
        format!("module ambit/{}\n\ngo {GO}\n\n{}{replaced}", self.name, self.manifest)
    }
}
