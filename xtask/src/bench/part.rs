// SPDX-License-Identifier: Apache-2.0
//! Parts of what is measured of the data plane, and in which configurations each makes sense. Pure.

use clap::ValueEnum;

use super::place::Between;

/// What `--only` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Resident memory, idle, of connections that are held, and after them.
    Memory,
    /// Requests per second over kept connections.
    Requests,
    /// Latency of one request at a time.
    Alone,
    /// Latency at two fixed rates.
    Rate,
    /// New connections per second.
    Connections,
    /// Throughput, both ways.
    Streams,
    /// Latency of small requests beside a stream of bulk.
    Beside,
    /// New tunnels per second.
    Tunnels,
    /// How soon a policy closes open connections.
    Policy,
    /// Memory of many workloads.
    Workloads,
}

impl Part {
    /// Whether it is measured where this is between client and server.
    pub(crate) fn fits(self, between: Between) -> bool {
        match self {
            Self::Requests | Self::Alone | Self::Connections | Self::Streams => true,
            Self::Rate | Self::Beside => between != Between::Nginx,
            Self::Memory => matches!(between, Between::Ztunnels | Between::Envoy),
            // Only they have tunnels for anybody, and a control plane.
            Self::Tunnels | Self::Policy | Self::Workloads => between == Between::Ztunnels,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_measured_of_ztunnels() {
        assert!(Part::value_variants().iter().all(|part| part.fits(Between::Ztunnels)));
    }

    #[test]
    fn what_has_no_control_plane_is_not_asked_to_follow_one() {
        for between in [Between::Nothing, Between::Envoy, Between::Nginx] {
            assert!(!Part::Policy.fits(between) && !Part::Workloads.fits(between), "{between:?}");
        }
    }
}
