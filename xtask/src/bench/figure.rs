// SPDX-License-Identifier: Apache-2.0
//! Every figure that any bench measures, in the order in which reports show them.

/// One line for each: the variant, its name in JSON, and what it is with its unit.
macro_rules! figures {
    ($($figure:ident: $json:literal, $label:literal;)*) => {
        /// A figure that is measured.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Figure {
            $($figure,)*
        }

        impl Figure {
            /// Name in JSON, and what it is with its unit.
            pub(crate) const fn names(self) -> (&'static str, &'static str) {
                match self {
                    $(Self::$figure => ($json, $label),)*
                }
            }
        }
    };
}

figures! {
    Requests: "requests_per_second", "requests/s, 64 connections";
    CpuPerRequests: "cpu_ms_per_1000_requests", "CPU ms per 1000 requests, both";
    ProxyCpu: "proxy_cpu_ms_per_1000_requests", "CPU ms per 1000 requests, proxy";
    AloneP50: "alone_p50_us", "one at a time, p50 µs";
    AloneP99: "alone_p99_us", "one at a time, p99 µs";
    AloneP999: "alone_p999_us", "one at a time, p99.9 µs";
    PacedP50: "paced_p50_us", "fixed rate, p50 µs";
    PacedP99: "paced_p99_us", "fixed rate, p99 µs";
    PacedP999: "paced_p999_us", "fixed rate, p99.9 µs";
    BusyP50: "paced_80_p50_us", "80% rate, p50 µs";
    BusyP99: "paced_80_p99_us", "80% rate, p99 µs";
    BusyP999: "paced_80_p999_us", "80% rate, p99.9 µs";
    Connections: "connections_per_second", "new connections/s";
    CpuPerConnections: "cpu_ms_per_1000_connections", "CPU ms per 1000 connections, both";
    OneStream: "one_stream_gbit", "1 stream, Gbit/s";
    EightStreams: "eight_streams_gbit", "8 streams, Gbit/s";
    CpuPerGigabyte: "cpu_s_per_gb", "CPU s per GB, both";
    OneStreamBack: "one_stream_back_gbit", "1 stream back, Gbit/s";
    EightStreamsBack: "eight_streams_back_gbit", "8 streams back, Gbit/s";
    CpuPerGigabyteBack: "cpu_s_per_gb_back", "CPU s per GB back, both";
    BesideP50: "beside_stream_p50_us", "beside a stream, p50 µs";
    BesideP99: "beside_stream_p99_us", "beside a stream, p99 µs";
    BesideStream: "beside_stream_gbit", "that stream, Gbit/s";
    FullTunnels: "full_tunnels_per_second", "new tunnels/s, full handshake";
    FullTunnelsCpu: "full_tunnels_cpu_ms_per_1000", "CPU ms per 1000 of them, server";
    ResumedTunnels: "resumed_tunnels_per_second", "new tunnels/s, resumed";
    ResumedTunnelsCpu: "resumed_tunnels_cpu_ms_per_1000", "CPU ms per 1000 resumed, server";
    PolicyFirst: "policy_to_first_closed_ms", "policy to the first closed, ms";
    PolicyAll: "policy_to_5000_closed_ms", "policy to all 5,000 closed, ms";
    IdleClient: "rss_idle_client_mib", "idle RSS MiB, client side";
    IdleServer: "rss_idle_server_mib", "idle RSS MiB, server side";
    HeldClient: "rss_per_1000_client_mib", "MiB per 1000 idle conns, client";
    HeldServer: "rss_per_1000_server_mib", "MiB per 1000 idle conns, server";
    AfterClient: "rss_after_burst_client_mib", "RSS MiB after a burst, client";
    AfterServer: "rss_after_burst_server_mib", "RSS MiB after a burst, server";
    WorkloadsClient: "rss_100000_workloads_client_mib", "MiB of 100,000 workloads, client";
    WorkloadsServer: "rss_100000_workloads_server_mib", "MiB of 100,000 workloads, server";
    Ready: "ready_s", "start to ready, s";
    FirstPush: "first_push_ms", "first full push to all, ms";
    FirstPushCpu: "first_push_cpu_ms", "CPU ms of the process for it";
    FirstPushBytes: "first_push_mb", "MB to each subscriber for it";
    LoneChange: "lone_change_ms", "lone change, write to all, ms";
    LoneChangeAcked: "lone_change_acked_ms", "same from write acknowledged, ms";
    LoneWorst: "lone_change_worst_ms", "worst lone change of a turn, ms";
    LoneBytes: "lone_change_bytes", "bytes to each subscriber for it";
    Burst: "burst_ms", "burst, first write to all, ms";
    BurstAcked: "burst_acked_ms", "burst, last write to all, ms";
    BurstMessages: "burst_messages", "messages to each for it";
    BurstBytes: "burst_kb", "kB to each subscriber for it";
    BurstCpu: "burst_cpu_ms", "CPU ms of the process for it";
    ControlIdle: "rss_idle_mib", "RSS MiB before subscribers";
    ControlPeak: "rss_peak_mib", "RSS MiB, peak of the turn";
    ControlAfter: "rss_after_mib", "RSS MiB after the changes";
    ProxyIdle: "rss_idle_mib", "RSS MiB, one route";
    ProxyRoutes: "rss_1000_routes_mib", "RSS MiB, 1,000 routes";
    ProxyEndpoints: "rss_10000_endpoints_mib", "RSS MiB, 10,000 endpoints";
    Reload: "reload_ms", "changed route to new answer, ms";
    ReloadFailed: "reload_failed", "requests that failed meanwhile";
    QuietP50: "quiet_p50_us", "alone, p50 µs";
    QuietP99: "quiet_p99_us", "alone, p99 µs";
    SlowP50: "slow_readers_p50_us", "beside slow readers, p50 µs";
    SlowP99: "slow_readers_p99_us", "beside slow readers, p99 µs";
    FloodP50: "flood_p50_us", "beside a flood, p50 µs";
    FloodP99: "flood_p99_us", "beside a flood, p99 µs";
    SlowToQuiet: "slow_readers_to_quiet_p99", "slow readers / alone, p99";
    FloodToQuiet: "flood_to_quiet_p99", "flood / alone, p99";
}
