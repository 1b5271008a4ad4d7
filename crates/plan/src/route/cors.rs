// SPDX-License-Identifier: Apache-2.0
//! What browsers are told about other origins (Fetch standard §3.2; Gateway API `HTTPCORSFilter`).

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request, response};
use mesh::l7::route::Cors;

use super::filter;

/// The answer to a preflight request; `None` where it is none and goes on.
pub(super) fn preflight(cors: &Cors, head: &request::Parts) -> Option<response::Parts> {
    let asked = head.headers.get(header::ACCESS_CONTROL_REQUEST_METHOD)?;
    let origin = head.headers.get(header::ORIGIN)?;
    if head.method != Method::OPTIONS {
        return None;
    }
    let mut answer = filter::answer(StatusCode::NO_CONTENT);
    let headers = &mut answer.headers;
    // Without permission the answer says nothing, and the browser keeps the request to itself.
    if !allow_origin(cors, Some(origin), headers) {
        return Some(answer);
    }
    let wanted = filter::text(&head.headers, &header::ACCESS_CONTROL_REQUEST_HEADERS).unwrap_or_default();
    let method = asked.to_str().unwrap_or_default();
    tell(headers, header::ACCESS_CONTROL_ALLOW_METHODS, listed(&cors.allow_methods, cors, method));
    tell(headers, header::ACCESS_CONTROL_ALLOW_HEADERS, listed(&cors.allow_headers, cors, wanted));
    tell(headers, header::ACCESS_CONTROL_MAX_AGE, cors.max_age.as_secs().to_string());
    Some(answer)
}

/// Marks the answer to any other request.
pub(super) fn answered(cors: &Cors, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
    if allow_origin(cors, origin, headers) {
        tell(headers, header::ACCESS_CONTROL_EXPOSE_HEADERS, listed(&cors.expose_headers, cors, ""));
    }
}

fn allow_origin(cors: &Cors, origin: Option<&HeaderValue>, headers: &mut HeaderMap) -> bool {
    // What the server says of origins is not for it to say.
    for name in [header::ACCESS_CONTROL_ALLOW_ORIGIN, header::ACCESS_CONTROL_ALLOW_CREDENTIALS] {
        headers.remove(name);
    }
    let Some((origin, text)) = origin.and_then(|origin| Some((origin, origin.to_str().ok()?))) else {
        return false;
    };
    let Some(allowed) = cors.allow_origins.iter().find(|allowed| covers(allowed, text)) else { return false };
    // `*` is not for requests with credentials, so they are told their own origin.
    let any = allowed == "*" && !cors.allow_credentials;
    let told = if any { HeaderValue::from_static("*") } else { origin.clone() };
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, told);
    // The answer to a preflight request comes by here twice, and a server may have said it already.
    if !any && !varies(headers) {
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
    }
    if cors.allow_credentials {
        headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
    true
}

/// Whether caches are told that answers differ by origin.
fn varies(headers: &HeaderMap) -> bool {
    let named = |name: &str| name.trim() == "*" || name.trim().eq_ignore_ascii_case("origin");
    let mut lists = headers.get_all(header::VARY).iter().filter_map(|value| value.to_str().ok());
    lists.any(|list| list.split(',').any(named))
}

/// `*`, an origin, or `scheme://*.domain` with or without a port.
fn covers(allowed: &str, origin: &str) -> bool {
    if allowed == "*" {
        return true;
    }
    match allowed.split_once('*') {
        None => allowed.eq_ignore_ascii_case(origin),
        Some((before, after)) => {
            let lower = origin.to_ascii_lowercase();
            let middle = lower
                .strip_prefix(&before.to_ascii_lowercase())
                .and_then(|rest| rest.strip_suffix(&after.to_ascii_lowercase()));
            middle.is_some_and(|middle| !middle.is_empty() && !middle.contains(['/', ':']))
        }
    }
}

/// A list for a header; `*` means what was asked for where credentials keep a browser from taking it as a wildcard.
fn listed(allowed: &[arcstr::ArcStr], cors: &Cors, asked: &str) -> String {
    if allowed.iter().any(|one| one == "*") {
        return if cors.allow_credentials && !asked.is_empty() { asked.to_owned() } else { "*".to_owned() };
    }
    allowed.join(", ")
}

fn tell(headers: &mut HeaderMap, name: HeaderName, text: String) {
    if let (false, Ok(value)) = (text.is_empty(), HeaderValue::try_from(text)) {
        headers.insert(name, value);
    }
}
