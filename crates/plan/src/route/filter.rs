// SPDX-License-Identifier: Apache-2.0
//! What the filters of a rule do to the heads of requests and answers.

use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header, request, response,
    uri::{Authority, PathAndQuery},
};
use mesh::{
    chance::Chance,
    l7::route::{Filter, HeaderEdits, Mirror, PathEdit, Redirect, Rewrite, Target},
};

use super::cors;

/// So that a copy is not drawn as a share is.
const COPIES: u64 = 0x636f_7069_6573;

/// How a request came in, for what its own head does not say.
#[derive(Clone, Copy, Debug)]
pub struct Arrived<'a> {
    /// The port that it was sent to.
    pub port: u16,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// The prefix by which its path fitted the rule.
    pub prefix: &'a str,
}

/// A request that cannot be passed on as its filters want it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {what} that a filter makes is not valid: {text:?}")]
pub struct Unfit {
    /// What it is.
    pub what: &'static str,
    /// What it would be.
    pub text: String,
}

/// Applies the filters to a request, in their order. `Some` is the answer: it goes no further.
///
/// # Errors
/// When a rewrite gives no valid host or path.
pub fn before(
    filters: &[Filter],
    arrived: Arrived<'_>,
    head: &mut request::Parts,
) -> Result<Option<response::Parts>, Unfit> {
    for filter in filters {
        match filter {
            Filter::RequestHeaders(edits) => edit(edits, &mut head.headers),
            Filter::Rewrite(rewrite) => self::rewrite(rewrite, arrived, head)?,
            Filter::Redirect(redirect) => return self::redirect(redirect, arrived, head).map(Some),
            Filter::Cors(cors) => {
                if let Some(answer) = cors::preflight(cors, head) {
                    return Ok(Some(answer));
                }
            }
            Filter::ResponseHeaders(_) | Filter::Mirror(_) => {}
        }
    }
    Ok(None)
}

/// Applies the filters to an answer. `origin` is the `Origin` that the request came with.
pub fn after(filters: &[Filter], origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
    for filter in filters {
        match filter {
            Filter::ResponseHeaders(edits) => edit(edits, headers),
            Filter::Cors(cors) => cors::answered(cors, origin, headers),
            Filter::RequestHeaders(_) | Filter::Rewrite(_) | Filter::Redirect(_) | Filter::Mirror(_) => {}
        }
    }
}

/// Where copies of this request go.
pub fn mirrors(filters: &[Filter], seed: u64) -> impl Iterator<Item = &Target> {
    filters.iter().enumerate().filter_map(move |(number, filter)| {
        let Filter::Mirror(Mirror { target, denominator, numerator }) = filter else { return None };
        let drawn = Chance::new(seed, COPIES.wrapping_add(number as u64)).below(u64::from(*denominator));
        (drawn < u64::from(*numerator)).then_some(target)
    })
}

fn edit(edits: &HeaderEdits, headers: &mut HeaderMap) {
    for (name, value) in &edits.set {
        headers.insert(name, value.clone());
    }
    for (name, value) in &edits.add {
        headers.append(name, value.clone());
    }
    for name in &edits.remove {
        headers.remove(name);
    }
}

fn rewrite(rewrite: &Rewrite, arrived: Arrived<'_>, head: &mut request::Parts) -> Result<(), Unfit> {
    if let Some(hostname) = &rewrite.hostname {
        // HTTP/2 has it in its target, HTTP/1.1 in a header; each end reads its own.
        if head.uri.authority().is_some() {
            let text = String::from_utf8_lossy(hostname.as_bytes()).into_owned();
            let authority: Authority = fit("host", &text)?;
            set_uri(head, |parts| parts.authority = Some(authority))?;
        }
        if head.headers.contains_key(header::HOST) || head.uri.authority().is_none() {
            head.headers.insert(header::HOST, hostname.clone());
        }
    }
    if let Some(edit) = &rewrite.path {
        let path = edited(edit, head.uri.path(), arrived.prefix);
        let text = with_query(&path, head.uri.query());
        let target: PathAndQuery = fit("path", &text)?;
        set_uri(head, |parts| parts.path_and_query = Some(target))?;
    }
    Ok(())
}

fn fit<'a, T: TryFrom<&'a str>>(what: &'static str, text: &'a str) -> Result<T, Unfit> {
    T::try_from(text).ok().ok_or_else(|| Unfit { what, text: text.to_owned() })
}

fn set_uri(head: &mut request::Parts, change: impl FnOnce(&mut http::uri::Parts)) -> Result<(), Unfit> {
    let mut parts = std::mem::take(&mut head.uri).into_parts();
    change(&mut parts);
    head.uri = Uri::from_parts(parts).map_err(|error| Unfit { what: "target", text: error.to_string() })?;
    Ok(())
}

fn redirect(
    redirect: &Redirect,
    arrived: Arrived<'_>,
    head: &request::Parts,
) -> Result<response::Parts, Unfit> {
    let scheme = redirect.scheme.as_deref().unwrap_or(arrived.scheme);
    let asked = host(head).unwrap_or_default();
    let host = redirect.hostname.as_deref().unwrap_or_else(|| without_port(asked));
    let usual = if scheme == "https" { 443 } else { 80 };
    // Without a port: that of the new scheme, else the one that was asked for.
    let port = redirect.port.unwrap_or_else(|| if redirect.scheme.is_some() { usual } else { arrived.port });
    let path = match &redirect.path {
        Some(edit) => edited(edit, head.uri.path(), arrived.prefix),
        None => head.uri.path().to_owned(),
    };
    let place = if port == usual { host.to_owned() } else { format!("{host}:{port}") };
    let text = format!("{scheme}://{place}{}", with_query(&path, head.uri.query()));
    let location: HeaderValue = fit("location", &text)?;
    let mut answer = answer(redirect.status);
    answer.headers.insert(header::LOCATION, location);
    Ok(answer)
}

/// The host that a request names.
pub fn host(head: &request::Parts) -> Option<&str> {
    match head.uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => head.headers.get(header::HOST)?.to_str().ok(),
    }
}

/// A host without its port; an IPv6 address keeps its brackets.
pub fn without_port(host: &str) -> &str {
    let end = if host.starts_with('[') { host.find(']').map(|at| at + 1) } else { host.find(':') };
    end.and_then(|end| host.get(..end)).unwrap_or(host)
}

fn edited(edit: &PathEdit, path: &str, prefix: &str) -> String {
    match edit {
        PathEdit::Full(full) => full.to_string(),
        PathEdit::Prefix(replacement) => {
            let rest = path.strip_prefix(prefix.trim_end_matches('/')).unwrap_or_default();
            match (rest, replacement.trim_end_matches('/')) {
                ("", "") => "/".to_owned(),
                ("", _) => replacement.to_string(),
                (rest, base) => format!("{base}{rest}"),
            }
        }
    }
}

fn with_query(path: &str, query: Option<&str>) -> String {
    match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    }
}

/// An answer without anything yet.
pub(super) fn answer(status: StatusCode) -> response::Parts {
    let mut answer = http::Response::new(()).into_parts().0;
    answer.status = status;
    answer
}

/// The header as a text, `None` where it is none.
pub(super) fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}
