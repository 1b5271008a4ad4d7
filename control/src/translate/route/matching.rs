// SPDX-License-Identifier: Apache-2.0
//! Matches of routes. An error is the part of the match that is wrong, and why.

use arcstr::ArcStr;
use http::Method;
use mesh::l7::{
    Pattern, TextMatch,
    route::{HttpMatch, PathMatch},
};

use super::value;
use crate::objects::{GrpcRouteMatch, HttpRouteMatch, NamedValue, RoutePath};

type Wrong = (String, String);

pub(super) fn http(matching: &HttpRouteMatch) -> Result<HttpMatch, Wrong> {
    let method = match &matching.method {
        None => None,
        Some(text) => Some(
            Method::from_bytes(text.as_bytes())
                .ok()
                .ok_or_else(|| ("method".to_owned(), format!("{text:?} is no method")))?,
        ),
    };
    let header = |name: &str| value::header_name(name);
    Ok(HttpMatch {
        path: matching
            .path
            .as_ref()
            .map_or(Ok(PathMatch::Any), path)
            .map_err(|why| ("path".to_owned(), why))?,
        method,
        headers: named("headers", &matching.headers, header)?,
        query: named("queryParams", &matching.query_params, |name| Ok(name.into()))?,
    })
}

pub(super) fn grpc(matching: &GrpcRouteMatch) -> Result<HttpMatch, Wrong> {
    let path = match &matching.method {
        None => PathMatch::Any,
        Some(method) => {
            let part = |text: Option<&ArcStr>| {
                text.filter(|text| !text.is_empty())
                    .map(|text| self::text(method.kind.as_deref(), text))
                    .transpose()
            };
            let service = part(method.service.as_ref()).map_err(|why| ("method.service".to_owned(), why))?;
            let called = part(method.method.as_ref()).map_err(|why| ("method.method".to_owned(), why))?;
            match (service, called) {
                (None, None) => PathMatch::Any,
                (service, method) => PathMatch::Rpc { service, method },
            }
        }
    };
    let headers = named("headers", &matching.headers, value::header_name)?;
    Ok(HttpMatch { path, headers, ..HttpMatch::default() })
}

fn path(path: &RoutePath) -> Result<PathMatch, String> {
    let value = path.value.as_ref().map_or("/", |value| value.as_str());
    let absolute = || {
        if value.starts_with('/') {
            Ok(ArcStr::from(value))
        } else {
            Err(format!("{value:?} does not begin with /"))
        }
    };
    Ok(match path.kind.as_deref().unwrap_or("PathPrefix") {
        "Exact" => PathMatch::Exact(absolute()?),
        // By whole elements, so a `/` at its end says nothing; the root is every path.
        "PathPrefix" => match absolute()?.trim_end_matches('/') {
            "" => PathMatch::Any,
            prefix => PathMatch::Prefix(prefix.into()),
        },
        "RegularExpression" => PathMatch::Pattern(Pattern::parse(value).map_err(|error| error.to_string())?),
        other => return Err(format!("{other:?} is no type: use Exact, PathPrefix or RegularExpression")),
    })
}

/// Of several with the same name the first counts, as Gateway API has it.
fn named<N: PartialEq>(
    part: &str,
    values: &[NamedValue],
    name: impl Fn(&str) -> Result<N, String>,
) -> Result<Vec<(N, TextMatch)>, Wrong> {
    let mut good: Vec<(N, TextMatch)> = Vec::with_capacity(values.len());
    for (index, value) in values.iter().enumerate() {
        let at = |what: &str, why| (format!("{part}[{index}].{what}"), why);
        let name = name(&value.name).map_err(|why| at("name", why))?;
        let text = text(value.kind.as_deref(), &value.value).map_err(|why| at("value", why))?;
        if good.iter().all(|(known, _)| *known != name) {
            good.push((name, text));
        }
    }
    Ok(good)
}

fn text(kind: Option<&str>, text: &ArcStr) -> Result<TextMatch, String> {
    match kind.unwrap_or("Exact") {
        "Exact" => Ok(TextMatch::Exact(text.clone())),
        "RegularExpression" => {
            Pattern::parse(text).map(TextMatch::Pattern).map_err(|error| error.to_string())
        }
        other => Err(format!("{other:?} is no type: use Exact or RegularExpression")),
    }
}
