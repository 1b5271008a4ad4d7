// SPDX-License-Identifier: Apache-2.0
//! Puts requests and connections to the guards of what they ask for, and carries out what those say. Which guards apply and
//! what they mean is decided in `plan::guard`.

use std::sync::Arc;

use http::{
    Uri, request,
    uri::{Parts, PathAndQuery},
};
use mesh::{
    PolicyName,
    authz::Verdict,
    l7::{
        Claims,
        guard::{Asked, Http, Judgement},
    },
};
use plan::{Answer, Failure, Fault, What, guard};

use crate::{
    exchange::Exchange,
    link::Link,
    open::{Began, Carried},
    shard::Shard,
    waypoint::Waypoint,
};

/// Target of the log of what policies under trial and audits have found; it has the access log's fields.
const POLICY: &str = "policy";

/// Brings the path into the one form in which policies, routes and the server read it.
///
/// # Errors
/// When no form of it is safe.
pub fn normalise(waypoint: &Waypoint, head: &mut request::Parts) -> Result<(), Fault> {
    let how = waypoint.config.normalisation;
    let path = head.uri.path();
    let normal = guard::path::normalise(path, how).map_err(Fault::Malformed)?;
    if normal == path {
        return Ok(());
    }
    let text = match head.uri.query() {
        Some(query) => format!("{normal}?{query}"),
        None => normal.into_owned(),
    };
    let unfit = || Fault::Malformed("the path has no safe form");
    let Parts { scheme, authority, .. } = std::mem::take(&mut head.uri).into_parts();
    let mut parts = Parts::default();
    (parts.scheme, parts.authority) = (scheme, authority);
    parts.path_and_query = Some(PathAndQuery::try_from(text).map_err(|_invalid| unfit())?);
    head.uri = Uri::from_parts(parts).map_err(|_invalid| unfit())?;
    Ok(())
}

/// Judges a request.
///
/// # Errors
/// When a policy refuses it, or there is no telling.
pub fn request(
    shard: &Shard,
    exchange: &mut Exchange,
    head: &request::Parts,
    claims: Option<&Claims>,
) -> Result<(), Fault> {
    let link = Arc::clone(&exchange.link);
    let host = exchange.host.clone();
    let http =
        Http { method: &head.method, host: &host, path: head.uri.path(), headers: &head.headers, claims };
    let judgement = judge(&shard.waypoint, &link, &asked(&link, None, Some(http)))?;
    note(&link, &judgement, head.method.as_str(), exchange.path.as_str());
    exchange.policy = judgement.verdict.policy().map(|policy| arcstr::format!("{policy}"));
    match judgement.verdict {
        Verdict::Open | Verdict::Allowed(_) => Ok(()),
        Verdict::Denied(policy) => Err(Fault::Denied(policy.to_string())),
        Verdict::NotAllowed(policy) => Err(Fault::Denied(format!("{policy}, of which no rule matches"))),
    }
}

/// Judges a connection that is carried as bytes; `server` is the name in its TLS handshake, if it has one.
///
/// # Errors
/// When a policy refuses it, or there is no telling.
pub fn connection(waypoint: &Waypoint, link: &Link, server: Option<&str>) -> Result<Judgement, Failure> {
    allowed(judge(waypoint, link, &asked(link, server, None))?)
}

/// Judges again what is carried as bytes: where it began as a request, by that.
///
/// # Errors
/// When a policy refuses it, or there is no telling.
pub fn carried(waypoint: &Waypoint, carried: &Carried) -> Result<(), Failure> {
    let Carried { link, server, request } = carried;
    let http = request.as_ref().map(Began::http);
    allowed(judge(waypoint, link, &asked(link, server.as_deref(), http))?).map(drop)
}

fn asked<'a>(link: &'a Link, server_name: Option<&'a str>, http: Option<Http<'a>>) -> Asked<'a> {
    let source = link.peer.ip();
    Asked {
        identity: &link.identity,
        source,
        remote: http.map_or(source, |http| guard::remote(http.headers, source)),
        destination: link.addressed.asked,
        server_name,
        http,
    }
}

fn allowed(judgement: Judgement) -> Result<Judgement, Failure> {
    match judgement.verdict {
        Verdict::Open | Verdict::Allowed(_) => Ok(judgement),
        Verdict::Denied(policy) => Err(What::Denied(policy).into()),
        Verdict::NotAllowed(policy) => Err(What::NotAllowed(policy).into()),
    }
}

/// What ends a connection that was let in and is refused now.
pub fn changed(refused: Failure) -> Failure {
    match refused.what {
        What::Denied(policy) | What::NotAllowed(policy) => What::PolicyChanged(policy).into(),
        _ => refused,
    }
}

/// Notes what policies that refuse nothing have to say of a connection that begins.
pub fn begun(link: &Link, judgement: &Judgement) {
    note(link, judgement, "", "");
}

fn judge(waypoint: &Waypoint, link: &Link, asked: &Asked<'_>) -> Result<Judgement, Failure> {
    let service = link.addressed.target.service().map(|service| service.key());
    let answer =
        waypoint.replica.read(|index| guard::guard(index, waypoint.local(), service.as_ref(), asked));
    match answer {
        Answer::Ready(judgement) => Ok(judgement),
        Answer::Needs(missing) => Err(missing.failure().into()),
    }
}

/// Counts and logs what audits and policies under trial have found. Only a refusal is worth a line at the default level.
fn note(link: &Link, judgement: &Judgement, method: &str, path: &str) {
    let service = link.addressed.target.service();
    let service = service.map(|service| service.hostname.as_str());
    let line = |policy: Option<&PolicyName>, message: &str| {
        let policy = policy.map(ToString::to_string);
        tracing::info!(
            target: POLICY,
            {
            src.addr = %link.peer,
            src.identity = %link.identity,
            dst.service = service,
            direction = "waypoint",
            method,
            path,
            policy,
            },
            "{message}"
        );
    };
    for policy in &judgement.audited {
        metrics::counter!("ambit_audit_total", "policy" => policy.to_string()).increment(1);
        line(Some(policy), "audit: policy match");
    }
    let Some(verdict) = &judgement.dry_run else { return };
    let (name, policy) = (verdict.as_str(), verdict.policy());
    let label = policy.map_or_else(|| "-".to_owned(), PolicyName::to_string);
    metrics::counter!("ambit_dry_run_total", "policy" => label, "verdict" => name).increment(1);
    match verdict {
        Verdict::Denied(_) => line(policy, "dry-run: deny policy match"),
        Verdict::NotAllowed(_) => line(policy, "dry-run: no allow policies match"),
        Verdict::Allowed(_) | Verdict::Open => {}
    }
}

#[cfg(test)]
mod tests;
