// SPDX-License-Identifier: Apache-2.0
//! The environment, read once, under Istio's names and with Istio's defaults; what is Ambit's own starts with `AMBIT_`.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use mesh::{
    WorkloadKey,
    l7::guard::Normalisation,
    telemetry::{Provider, Share, SpanWire, Tracing},
};
use proxy::settings::ProxyConfig;
use runtime::env::{Env, InvalidEnvironment};

/// What of a body may wait in a tunnel for its reader. A node proxy takes more, as it serves one pod; here bodies of many
/// clients wait at a time, each beside the others.
const STREAM_WINDOW: u32 = 256 * 1024;

/// Everything that can be set from outside.
#[derive(Clone, Debug)]
pub struct Config {
    /// What every proxy is told.
    pub proxy: ProxyConfig,
    /// `POD_NAME`, `POD_NAMESPACE`, `SERVICE_ACCOUNT`: whose certificate is shown.
    pub own: WorkloadKey,
    /// `AMBIT_WORKER_THREADS`.
    pub workers: usize,
    /// Whether servers are told who the client is, in `x-forwarded-client-cert` (`AMBIT_FORWARD_CLIENT_CERT`).
    pub forward_client: bool,
    /// How far paths are normalised (`AMBIT_PATH_NORMALIZATION`).
    pub normalisation: Normalisation,
    /// Bounds of what clients may take.
    pub bounds: Bounds,
    /// Where spans go and how many, unless a Telemetry says otherwise.
    pub tracing: Tracing,
    /// `15008`: tunnels.
    pub hbone: SocketAddr,
}

/// Bounds of what clients and servers may take.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes of a request's or answer's head (`AMBIT_MAX_HEADER_BYTES`).
    pub header_bytes: u32,
    /// Header fields of a head (`AMBIT_MAX_HEADERS`).
    pub headers: usize,
    /// Requests at a time on one HTTP/2 connection of a client (`AMBIT_MAX_STREAMS`).
    pub streams: u32,
    /// Requests at a time on one thread (`AMBIT_MAX_REQUESTS`).
    pub requests: usize,
    /// Requests and connections at a time to one service, unless the service says otherwise (`AMBIT_MAX_SERVICE_REQUESTS`).
    pub service: usize,
    /// Those that may wait for their turn (`AMBIT_MAX_SERVICE_PENDING`).
    pub pending: usize,
    /// A client that has begun a head finishes it in this time (`AMBIT_HEADER_TIMEOUT`).
    pub head: Duration,
    /// A connection without a request is closed after this (`AMBIT_IDLE_TIMEOUT`).
    pub idle: Duration,
    /// The first bytes of an undeclared protocol are waited for so long before a server may speak first
    /// (`AMBIT_DETECTION_TIMEOUT`).
    pub detection: Duration,
}

impl Config {
    /// Reads variables given as name and value.
    ///
    /// # Errors
    /// Names every variable that cannot be used, what it holds and what it should.
    pub fn new(variables: impl IntoIterator<Item = (String, String)>) -> Result<Self, InvalidEnvironment> {
        let mut env = Env::new(variables);
        let proxy = ProxyConfig::new(&mut env, "waypoint", STREAM_WINDOW);
        let config = Self {
            own: own(&mut env),
            workers: workers(&mut env),
            forward_client: env.flag("AMBIT_FORWARD_CLIENT_CERT", false),
            normalisation: env
                .optional("AMBIT_PATH_NORMALIZATION", Normalisation::ACCEPTED, |text| text.parse().ok())
                .unwrap_or_default(),
            bounds: bounds(&mut env),
            tracing: tracing(&mut env),
            hbone: env.address("AMBIT_HBONE_ADDR", proxy.everywhere(plan::HBONE_PORT)),
            proxy,
        };
        env.finish()?;
        Ok(config)
    }
}

fn own(env: &mut Env) -> WorkloadKey {
    WorkloadKey {
        name: env.required("POD_NAME", "the name of this pod").into(),
        namespace: env.required("POD_NAMESPACE", "the namespace of this pod").into(),
        service_account: env.required("SERVICE_ACCOUNT", "the service account of this pod").into(),
    }
}

/// Two by default, as many as Istio's template gives a waypoint, unless there is only one core.
fn workers(env: &mut Env) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    env.number("AMBIT_WORKER_THREADS", cores.min(2), 1..=256)
}

/// `OTEL_EXPORTER_OTLP_ENDPOINT` (gRPC) or `OTEL_EXPORTER_ZIPKIN_ENDPOINT`, and `AMBIT_TRACE_SAMPLING` in percent.
fn tracing(env: &mut Env) -> Tracing {
    let [otlp, zipkin] = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", SpanWire::Otlp, 4317, ""),
        ("OTEL_EXPORTER_ZIPKIN_ENDPOINT", SpanWire::Zipkin, 9411, "/api/v2/spans"),
    ]
    .map(|(name, wire, port, path)| {
        env.optional(name, "http://host[:port]", |text| provider(text, wire, port, path))
    });
    if otlp.is_some() && zipkin.is_some() {
        env.reject("OTEL_EXPORTER_ZIPKIN_ENDPOINT", "unset where OTEL_EXPORTER_OTLP_ENDPOINT is set");
    }
    let share = env.optional("AMBIT_TRACE_SAMPLING", "a percentage, 0 to 100", |text| {
        Share::percent(text.parse().ok()?)
    });
    Tracing {
        provider: otlp.or(zipkin).map(Arc::new),
        share: share.or_else(|| Share::percent(1.0)),
        ..Tracing::default()
    }
}

fn provider(text: &str, wire: SpanWire, port: u16, path: &str) -> Option<Provider> {
    let uri: http::Uri = text.parse().ok()?;
    if uri.scheme_str() != Some("http") {
        return None;
    }
    let given = Some(uri.path()).filter(|given| *given != "/" && !given.is_empty());
    Some(Provider {
        name: arcstr::ArcStr::default(),
        wire,
        host: uri.host()?.trim_start_matches('[').trim_end_matches(']').into(),
        port: uri.port_u16().unwrap_or(port),
        path: given.unwrap_or(path).into(),
    })
}

fn bounds(env: &mut Env) -> Bounds {
    Bounds {
        header_bytes: env.number("AMBIT_MAX_HEADER_BYTES", 60 * 1024, 4096..=1 << 20),
        headers: env.number("AMBIT_MAX_HEADERS", 100, 16..=1000),
        streams: env.number("AMBIT_MAX_STREAMS", 100, 1..=10_000),
        requests: env.number("AMBIT_MAX_REQUESTS", 16_384, 1..=1_000_000),
        service: env.number("AMBIT_MAX_SERVICE_REQUESTS", 16_384, 1..=1_000_000),
        pending: env.number("AMBIT_MAX_SERVICE_PENDING", 1024, 0..=1_000_000),
        head: env.duration("AMBIT_HEADER_TIMEOUT", Duration::from_secs(10)),
        idle: env.duration("AMBIT_IDLE_TIMEOUT", Duration::from_secs(3600)),
        detection: env.duration("AMBIT_DETECTION_TIMEOUT", Duration::from_millis(100)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(variables: &[(&str, &str)]) -> Result<Config, InvalidEnvironment> {
        let who = [("POD_NAME", "gate-1"), ("POD_NAMESPACE", "shop"), ("SERVICE_ACCOUNT", "gate")];
        let all = who.iter().chain(variables);
        Config::new(all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn a_waypoint_knows_who_it_is() {
        let config = config(&[("INSTANCE_IP", "10.0.0.1")]).unwrap();
        assert_eq!(config.own.to_string(), "shop/gate-1 (gate)");
        assert_eq!(config.proxy.node_id.id, "waypoint~10.0.0.1~gate-1.shop~shop.svc.cluster.local");
        assert_eq!(config.hbone.port(), 15008);
    }

    #[test]
    fn spans_go_where_the_environment_says() {
        assert_eq!(config(&[]).unwrap().tracing.provider, None);
        let to = |name: &'static str, value: &'static str| {
            let provider = config(&[(name, value)]).unwrap().tracing.provider.unwrap();
            (provider.host.to_string(), provider.port, provider.path.to_string())
        };
        let zipkin = |value| to("OTEL_EXPORTER_ZIPKIN_ENDPOINT", value);
        assert_eq!(zipkin("http://zipkin"), ("zipkin".into(), 9411, "/api/v2/spans".into()));
        assert_eq!(zipkin("http://[::1]:1/x"), ("::1".into(), 1, "/x".into()));
        assert_eq!(to("OTEL_EXPORTER_OTLP_ENDPOINT", "http://10.0.0.1").1, 4317);
        let both =
            [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a"), ("OTEL_EXPORTER_ZIPKIN_ENDPOINT", "http://b")];
        for wrong in
            [&both[..], &[("OTEL_EXPORTER_OTLP_ENDPOINT", "a:1")], &[("AMBIT_TRACE_SAMPLING", "101")]]
        {
            assert!(config(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn every_mistake_is_named_at_once() {
        let nobody = Config::new([]).unwrap_err().to_string();
        for name in ["POD_NAME", "POD_NAMESPACE", "SERVICE_ACCOUNT"] {
            assert!(nobody.contains(name), "{nobody}");
        }
        let error = config(&[("AMBIT_MAX_HEADERS", "0"), ("AMBIT_IDLE_TIMEOUT", "soon")]).unwrap_err();
        assert!(
            error.to_string().contains("AMBIT_MAX_HEADERS")
                && error.to_string().contains("AMBIT_IDLE_TIMEOUT")
        );
    }
}
