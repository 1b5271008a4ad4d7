// SPDX-License-Identifier: Apache-2.0
//! The capture programs as enrolment uses them: the node's settings filled in, and each call, which blocks for
//! milliseconds, on a thread where that is allowed.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::Arc,
};

use ebpf_loader::{AttachError, DetachError, Exclusions, HookError, LoadError, PodNetns, Rules, Settings};
pub use ebpf_loader::{Counters, abi::Event};
use ipnet::IpNet;

use crate::{
    netns::Netns,
    pod::{Capturing, Pod, Treatment, Uid},
};

/// The programs of this node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Capture {
    programs: Arc<ebpf_loader::Capture>,
    exempt_peers: Arc<[IpNet]>,
}

/// Why a pod's capture could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// Not attached.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// Not detached.
    #[error(transparent)]
    Detach(#[from] DetachError),
    /// Kubelet's group.
    #[error(transparent)]
    Group(#[from] HookError),
    /// The descriptor of its namespace.
    #[error("cannot duplicate the descriptor of the network namespace")]
    Descriptor(#[source] std::io::Error),
    /// The thread ended without a result.
    #[error("the thread that works on the programs died")]
    Died(#[source] tokio::task::JoinError),
}

impl Capture {
    /// Loads the programs, or takes over those that are there. Blocks.
    ///
    /// # Errors
    /// When the kernel cannot run them.
    pub fn load(settings: Settings, exempt_peers: Vec<IpNet>) -> Result<Self, LoadError> {
        let programs = Arc::new(ebpf_loader::Capture::load(settings)?);
        Ok(Self { programs, exempt_peers: exempt_peers.into() })
    }

    /// Captures a pod, or makes sure that it is captured as it should be.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn attach(&self, pod: &Pod, netns: &Netns) -> Result<(), CaptureError> {
        let netns = netns.as_fd().try_clone_to_owned().map_err(CaptureError::Descriptor)?;
        let Treatment { dns, inbound, exclusions } = pod.treatment.clone();
        let rules = Rules {
            ips: pod.ips.clone(),
            // Istio's default: without it a name of another cluster or of a ServiceEntry has no address.
            dns: dns == Capturing::On,
            exclusions: Exclusions {
                outbound_ports: exclusions.outbound_ports,
                outbound_networks: exclusions.outbound_networks,
                inbound_ports: exclusions.inbound_ports,
                inbound: inbound == Capturing::Off,
                interfaces: exclusions.interfaces,
            },
            exempt_peers: self.exempt_peers.to_vec(),
        };
        let uid = &pod.uid;
        let pod = PodNetns { netns, uid: uid.to_string(), rules };
        let attached = self.blocking(move |programs| programs.attach(&pod)).await??;
        tracing::debug!(%uid, cookie = attached.netns_cookie, interfaces = ?attached.interfaces, "attached");
        Ok(())
    }

    /// Lets connections of a control group's processes to pods go straight to the application.
    ///
    /// # Errors
    /// When it is no control group of version 2, or the kernel refuses.
    pub async fn exempt_group(&self, group: OwnedFd) -> Result<(), CaptureError> {
        Ok(self.blocking(move |programs| programs.exempt_group(group.as_fd())).await??)
    }

    /// Captures nothing new of a pod that lives on; its captured connections end.
    ///
    /// # Errors
    /// When something stays attached.
    pub async fn release(&self, uid: &Uid) -> Result<(), CaptureError> {
        let uid = uid.to_string();
        let release = move |programs: &ebpf_loader::Capture| match programs.release(&uid) {
            // Not of these programs: nothing is attached, or those of an earlier object are.
            Err(DetachError::Unknown { .. }) => programs.detach(&uid),
            released => released,
        };
        Ok(self.blocking(release).await??)
    }

    /// Removes everything of a pod.
    ///
    /// # Errors
    /// When something stays attached.
    pub async fn detach(&self, uid: &Uid) -> Result<(), CaptureError> {
        let uid = uid.to_string();
        Ok(self.blocking(move |programs| programs.detach(&uid)).await??)
    }

    /// What happened to the packets of some pods, in the order asked for; none for one that is not captured.
    ///
    /// # Errors
    /// When the thread that reads died.
    pub async fn counters(&self, uids: Vec<Uid>) -> Result<Vec<Option<Counters>>, CaptureError> {
        self.blocking(move |programs| uids.iter().map(|uid| programs.counters(uid.as_str())).collect()).await
    }

    /// All pods of which something is attached, by this agent or one before it. Blocks.
    ///
    /// # Errors
    /// When the pins cannot be read.
    pub fn attached(&self) -> Result<Vec<Uid>, CaptureError> {
        // Every uid that an agent ever attached was parsed before.
        Ok(self.programs.adopt()?.iter().filter_map(|adopted| Uid::parse(&adopted.uid).ok()).collect())
    }

    /// Where ztunnel finds the map of claims.
    pub fn claim_map(&self) -> &Path {
        self.programs.claim_map_path()
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&ebpf_loader::Capture) -> T + Send + 'static,
    ) -> Result<T, CaptureError> {
        let programs = Arc::clone(&self.programs);
        tokio::task::spawn_blocking(move || work(&programs)).await.map_err(CaptureError::Died)
    }
}
