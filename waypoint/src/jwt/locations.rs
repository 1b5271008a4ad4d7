// SPDX-License-Identifier: Apache-2.0
//! Where in a request a token is, and how it is taken out.

use http::{
    HeaderValue, Uri,
    header::COOKIE,
    request,
    uri::{Parts, PathAndQuery},
};
use mesh::l7::authentication::{JwtRule, Location};

/// Tokens of one request that are looked at.
const MOST: usize = 8;

/// A token that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found<'a> {
    /// Where.
    pub location: &'a Location,
    /// As it is written.
    pub text: String,
}

/// All tokens of a request, in the order of the rules, each once.
pub fn find<'a>(rules: &[&'a JwtRule], head: &request::Parts) -> Vec<Found<'a>> {
    let mut found: Vec<Found<'a>> = Vec::new();
    let mut seen: Vec<&Location> = Vec::new();
    for location in rules.iter().flat_map(|rule| &rule.from) {
        if seen.contains(&location) {
            continue;
        }
        seen.push(location);
        let texts = at(location, head).into_iter();
        found.extend(texts.map(|text| Found { location, text }));
    }
    found.truncate(MOST);
    found
}

fn at(location: &Location, head: &request::Parts) -> Vec<String> {
    match location {
        Location::Header { name, prefix } => {
            let values = head.headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
            values.filter_map(|text| after(text, prefix)).map(str::to_owned).collect()
        }
        Location::Param(name) => params(&head.uri)
            .filter(|(known, _)| known == name.as_str())
            .map(|(_, value)| value.into_owned())
            .filter(|value| !value.is_empty())
            .collect(),
        Location::Cookie(name) => {
            let values = head.headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
            let pairs =
                values.flat_map(|text| text.split(';')).filter_map(|pair| pair.trim().split_once('='));
            let theirs = pairs.filter(|(known, _)| known == name);
            theirs
                .map(|(_, value)| value.trim_matches('"').to_owned())
                .filter(|value| !value.is_empty())
                .collect()
        }
    }
}

/// What stands after a prefix. The names of schemes have no case (RFC 9110 §11.1).
fn after<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let start = text.get(..prefix.len())?;
    let rest = text.get(prefix.len()..)?.trim();
    // A header may have several tokens of other kinds; a token has no spaces.
    let token = rest.split([' ', ',']).next().unwrap_or_default();
    (start.eq_ignore_ascii_case(prefix) && !token.is_empty()).then_some(token)
}

fn params(uri: &Uri) -> form_urlencoded::Parse<'_> {
    form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes())
}

/// Takes a token out, as the server is not to have it.
pub fn remove(location: &Location, head: &mut request::Parts) {
    match location {
        Location::Header { name, .. } => drop(head.headers.remove(name)),
        Location::Param(name) => {
            let text = without(&head.uri, |known| known == name.as_str());
            if let Ok(path) = PathAndQuery::try_from(text) {
                let Parts { scheme, authority, .. } = head.uri.clone().into_parts();
                let mut parts = Parts::default();
                (parts.scheme, parts.authority, parts.path_and_query) = (scheme, authority, Some(path));
                if let Ok(uri) = Uri::from_parts(parts) {
                    head.uri = uri;
                }
            }
        }
        Location::Cookie(name) => {
            let values = head.headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
            let pairs = values.flat_map(|text| text.split(';')).map(str::trim);
            let others = pairs.filter(|pair| pair.split_once('=').is_none_or(|(known, _)| known != name));
            let rest = others.collect::<Vec<_>>().join("; ");
            head.headers.remove(COOKIE);
            if !rest.is_empty()
                && let Ok(value) = HeaderValue::from_str(&rest)
            {
                head.headers.insert(COOKIE, value);
            }
        }
    }
}

/// Path and query without the parameters that may have tokens.
pub fn without_params(rules: &[&JwtRule], uri: &Uri) -> String {
    without(uri, |known| {
        rules
            .iter()
            .flat_map(|rule| &rule.from)
            .any(|location| matches!(location, Location::Param(name) if name == known))
    })
}

/// Path and query; of the query only what is not left out, as it is written.
fn without(uri: &Uri, leaves_out: impl Fn(&str) -> bool) -> String {
    let path = uri.path();
    let Some(query) = uri.query() else { return path.to_owned() };
    let name = |pair: &str| {
        form_urlencoded::parse(pair.as_bytes()).next().map(|(name, _)| name.into_owned()).unwrap_or_default()
    };
    let kept: Vec<&str> = query.split('&').filter(|pair| !leaves_out(&name(pair))).collect();
    if kept.is_empty() { path.to_owned() } else { format!("{path}?{}", kept.join("&")) }
}
