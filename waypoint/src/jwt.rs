// SPDX-License-Identifier: Apache-2.0
//! Whose requests they are: tokens are looked for where authentications say, and proven. A request without a token passes;
//! one with a token that does not hold is refused.
//!
//! ```text
//!   plan::guard::issuers ─► locations ─► token ─► keyring (fetch) ─► keys ─► claims ─► guard, headers for the server
//! ```

pub mod fetch;
pub mod keyring;
pub mod keys;
pub mod locations;
pub mod token;

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderName, HeaderValue, request};
use mesh::{
    Authentication,
    l7::{
        authentication::{JwtRule, Keys, Location},
        claims::{Claim, Claims},
    },
};
use plan::{Answer, Failure, Fault, guard};

use self::{
    keyring::{Slot, State},
    keys::{KeySet, Unproven},
    locations::Found,
    token::{Invalid, Token},
};
use crate::{exchange::Exchange, shard::Shard};

/// The longest that a request waits for keys, besides what a rule says.
const PATIENCE: Duration = Duration::from_secs(5);

/// Finds the token of a request, proves it, and tells the server what it may know of it.
///
/// # Errors
/// When there is one that does not hold.
pub async fn authenticate(
    shard: &Shard,
    exchange: &mut Exchange,
    head: &mut request::Parts,
) -> Result<Option<Arc<Claims>>, Fault> {
    let authentications = issuers(shard, exchange)?;
    if authentications.is_empty() {
        if let Some(query) = head.uri.query() {
            exchange.path = arcstr::format!("{}?{query}", exchange.path);
        }
        return Ok(None);
    }
    let rules: Vec<&JwtRule> = authentications.iter().flat_map(|found| &found.rules).collect();
    clean(&rules, head);
    let found = locations::find(&rules, head);
    // What is in the query must not get into a log.
    exchange.path = locations::without_params(&rules, &head.uri).into();
    let mut all = Vec::with_capacity(found.len());
    for candidate in &found {
        let outcome = Box::pin(prove(shard, &rules, candidate)).await;
        match outcome {
            Ok(proven) => all.push((candidate, proven)),
            Err(invalid) => {
                count("refused");
                return Err(Fault::Unauthenticated(invalid.0));
            }
        }
    }
    for (candidate, _) in all.iter().filter(|(_, (rule, ..))| !rule.forward) {
        locations::remove(candidate.location, head);
    }
    let Some((_, (rule, payload, claims))) = all.into_iter().next() else { return Ok(None) };
    count("proven");
    tell(rule, &payload, &claims, head);
    Ok(Some(Arc::new(claims)))
}

fn count(outcome: &'static str) {
    metrics::counter!("ambit_jwt_tokens_total", "outcome" => outcome).increment(1);
}

fn issuers(shard: &Shard, exchange: &Exchange) -> Result<Vec<Arc<Authentication>>, Fault> {
    let waypoint = &shard.waypoint;
    let service = exchange.link.addressed.target.service().map(|service| service.key());
    match waypoint.replica.read(|index| guard::issuers(index, waypoint.local(), service.as_ref())) {
        Answer::Ready(found) => Ok(found),
        Answer::Needs(missing) => Err(Failure::from(missing.failure()).into()),
    }
}

/// Takes out what only this proxy may say.
fn clean(rules: &[&JwtRule], head: &mut request::Parts) {
    for rule in rules {
        let claims = rule.claim_headers.iter().map(|(name, _)| name);
        for name in claims.chain(&rule.payload_header) {
            // The token itself may come in one of them.
            let carries =
                |from: &Location| matches!(from, Location::Header { name: known, .. } if known == name);
            if !rules.iter().any(|rule| rule.from.iter().any(carries)) {
                head.headers.remove(name);
            }
        }
    }
}

type Proven<'a> = (&'a JwtRule, String, Claims);

/// Finds the rule under which a token holds.
async fn prove<'a>(
    shard: &Shard,
    rules: &[&'a JwtRule],
    candidate: &Found<'_>,
) -> Result<Proven<'a>, Invalid> {
    let token = Token::parse(&candidate.text)?;
    let theirs = |rule: &&&JwtRule| {
        token.issuer() == Some(rule.issuer.as_str()) && rule.from.contains(candidate.location)
    };
    let mut refused = Invalid("Jwt issuer is not configured");
    for rule in rules.iter().filter(theirs) {
        match hold(shard, rule, &token).await {
            Ok(()) => {
                let claims = Claims::new(token.claims(), &rule.words);
                return Ok((rule, token.payload.to_owned(), claims));
            }
            Err(invalid) => refused = invalid,
        }
    }
    Err(refused)
}

/// Whether a token holds under a rule. What costs least is looked at first.
async fn hold(shard: &Shard, rule: &JwtRule, token: &Token<'_>) -> Result<(), Invalid> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    token.holds_at(now)?;
    token.is_for(&rule.audiences)?;
    let slot = shard.waypoint.keyring.slot(rule);
    let timeout = match &rule.keys {
        Keys::Inline(_) => Duration::ZERO,
        Keys::At { timeout, .. } | Keys::Discovered { timeout } => (*timeout).min(PATIENCE),
    };
    let state = slot.begun(timeout).await;
    match check(&state, token) {
        Err(Unproven::UnknownKey) => again(&slot, &state, token, timeout).await,
        Err(Unproven::Forged(invalid)) => Err(invalid),
        Ok(()) => Ok(()),
    }
}

/// Once more with newer keys, if such can be had now.
async fn again(slot: &Slot, state: &State, token: &Token<'_>, timeout: Duration) -> Result<(), Invalid> {
    let unknown = if state.keys.is_some() {
        Invalid("Jwks doesn't have key to match kid or alg from Jwt")
    } else {
        Invalid("Jwks remote fetch is failed")
    };
    let Some(newer) = slot.newer(state, timeout).await else { return Err(unknown) };
    check(&newer, token).map_err(|unproven| match unproven {
        Unproven::UnknownKey => unknown,
        Unproven::Forged(invalid) => invalid,
    })
}

fn check(state: &State, token: &Token<'_>) -> Result<(), Unproven> {
    state.keys.as_deref().map_or(Err(Unproven::UnknownKey), |keys: &KeySet| keys.prove(token))
}

/// Writes the headers from which the server knows the claims.
fn tell(rule: &JwtRule, payload: &str, claims: &Claims, head: &mut request::Parts) {
    let mut insert = |name: &HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            head.headers.insert(name, value);
        }
    };
    if let Some(name) = &rule.payload_header {
        insert(name, payload);
    }
    for (name, path) in &rule.claim_headers {
        // A name may have dots itself.
        let whole = [path.join(".")];
        let claim = claims.at(&whole).or_else(|| claims.at(path));
        if let Some(text) = claim.and_then(text) {
            insert(name, &text);
        }
    }
}

/// A claim as a header has it: texts, numbers, true and false as they are, lists and maps as encoded JSON.
fn text(claim: &Claim) -> Option<String> {
    match claim {
        Claim::Text(text) => Some(text.to_string()),
        Claim::Other(text) => (*text != "null").then(|| text.to_string()),
        Claim::List(_) | Claim::Map(_) => Some(URL_SAFE_NO_PAD.encode(json(claim).to_string())),
    }
}

fn json(claim: &Claim) -> serde_json::Value {
    match claim {
        Claim::Text(text) => text.as_str().into(),
        Claim::Other(text) => serde_json::from_str(text).unwrap_or_default(),
        Claim::List(all) => all.iter().map(json).collect(),
        Claim::Map(all) => all.iter().map(|(name, claim)| (name.to_string(), json(claim))).collect(),
    }
}

/// What a client is told of how to do better (RFC 6750 §3).
pub fn challenge(exchange: &Exchange) -> Option<HeaderValue> {
    let path = exchange.path.split('?').next().unwrap_or_default();
    let place: String = format!("http://{}{path}", exchange.host)
        .chars()
        .filter(|letter| !matches!(letter, '"' | '\\'))
        .collect();
    HeaderValue::from_str(&format!("Bearer realm=\"{place}\", error=\"invalid_token\"")).ok()
}

#[cfg(test)]
mod tests;
