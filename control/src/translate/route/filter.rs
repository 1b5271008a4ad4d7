// SPDX-License-Identifier: Apache-2.0
//! Filters of routes. An error is the part of the filter that is wrong, and why.

use std::time::Duration;

use http::StatusCode;
use mesh::l7::route::{Cors, Filter, HeaderEdits, Mirror, PathEdit, Redirect, Rewrite, Target};

use super::value;
use crate::objects::{
    CorsFilter, HeaderModifier, PathModifier, RequestMirror, RequestRedirect, RouteFilter, ServiceRef,
    UrlRewrite,
};

type Wrong = (&'static str, String);

/// Seconds that an answer to a preflight request may be kept.
const MAX_AGE: u32 = 5;

pub(super) fn read(
    filter: &RouteFilter,
    target: impl FnOnce(&ServiceRef) -> Target,
) -> Result<Filter, Wrong> {
    Ok(match filter.kind.as_str() {
        "RequestHeaderModifier" => {
            Filter::RequestHeaders(edits("requestHeaderModifier", filter.request_header_modifier.as_ref())?)
        }
        "ResponseHeaderModifier" => Filter::ResponseHeaders(edits(
            "responseHeaderModifier",
            filter.response_header_modifier.as_ref(),
        )?),
        "RequestRedirect" => {
            let part = "requestRedirect";
            Filter::Redirect(
                redirect(given(part, filter.request_redirect.as_ref())?).map_err(|why| (part, why))?,
            )
        }
        "URLRewrite" => {
            let part = "urlRewrite";
            Filter::Rewrite(rewrite(given(part, filter.url_rewrite.as_ref())?).map_err(|why| (part, why))?)
        }
        "RequestMirror" => {
            let part = "requestMirror";
            let wanted = given(part, filter.request_mirror.as_ref())?;
            let (numerator, denominator) = share(wanted).map_err(|why| (part, why))?;
            Filter::Mirror(Mirror { target: target(&wanted.backend_ref), denominator, numerator })
        }
        "CORS" => Filter::Cors(cors(given("cors", filter.cors.as_ref())?)),
        other => return Err(("type", format!("{other} is not served"))),
    })
}

fn given<'a, T>(part: &'static str, value: Option<&'a T>) -> Result<&'a T, Wrong> {
    value.ok_or_else(|| (part, "is missing".to_owned()))
}

fn edits(part: &'static str, modifier: Option<&HeaderModifier>) -> Result<HeaderEdits, Wrong> {
    let modifier = given(part, modifier)?;
    let pairs = |pairs: &[crate::objects::HeaderValuePair]| {
        let pair = |pair: &crate::objects::HeaderValuePair| {
            Ok((value::header_name(&pair.name)?, value::header_value(&pair.value)?))
        };
        pairs.iter().map(pair).collect::<Result<_, String>>().map_err(|why| (part, why))
    };
    let remove = modifier.remove.iter().map(|name| value::header_name(name));
    Ok(HeaderEdits {
        set: pairs(&modifier.set)?,
        add: pairs(&modifier.add)?,
        remove: remove.collect::<Result<_, String>>().map_err(|why| (part, why))?,
    })
}

fn redirect(wanted: &RequestRedirect) -> Result<Redirect, String> {
    let code = wanted.status_code.unwrap_or(302);
    let status = StatusCode::from_u16(code)
        .ok()
        .filter(|status| matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308));
    if let Some(scheme) = wanted.scheme.as_ref().filter(|scheme| !matches!(scheme.as_str(), "http" | "https"))
    {
        return Err(format!("scheme {scheme:?} is neither http nor https"));
    }
    Ok(Redirect {
        scheme: wanted.scheme.clone(),
        hostname: wanted.hostname.clone(),
        port: wanted.port,
        path: wanted.path.as_ref().map(path).transpose()?,
        status: status.ok_or_else(|| format!("statusCode {code} is no redirection"))?,
    })
}

fn rewrite(wanted: &UrlRewrite) -> Result<Rewrite, String> {
    Ok(Rewrite {
        hostname: wanted.hostname.as_ref().map(|hostname| value::header_value(hostname)).transpose()?,
        path: wanted.path.as_ref().map(path).transpose()?,
    })
}

fn path(wanted: &PathModifier) -> Result<PathEdit, String> {
    let (field, value) = match wanted.kind.as_str() {
        "ReplaceFullPath" => ("replaceFullPath", wanted.replace_full_path.clone()),
        "ReplacePrefixMatch" => ("replacePrefixMatch", wanted.replace_prefix_match.clone()),
        other => {
            return Err(format!("path.type {other:?} is neither ReplaceFullPath nor ReplacePrefixMatch"));
        }
    };
    let value = value.ok_or_else(|| format!("path.{field} is missing"))?;
    Ok(if field == "replaceFullPath" { PathEdit::Full(value) } else { PathEdit::Prefix(value) })
}

/// So many of so many.
fn share(wanted: &RequestMirror) -> Result<(u32, u32), String> {
    match (wanted.percent, wanted.fraction) {
        (None, None) => Ok((100, 100)),
        (Some(percent), None) if percent <= 100 => Ok((percent, 100)),
        (Some(percent), None) => Err(format!("percent {percent} is more than 100")),
        (None, Some(fraction)) => match fraction.denominator.unwrap_or(100) {
            0 => Err("fraction.denominator is 0".to_owned()),
            denominator if fraction.numerator <= denominator => Ok((fraction.numerator, denominator)),
            denominator => Err(format!("fraction {}/{denominator} is more than all", fraction.numerator)),
        },
        (Some(_), Some(_)) => Err("has both percent and fraction: remove one of them".to_owned()),
    }
}

fn cors(wanted: &CorsFilter) -> Cors {
    Cors {
        allow_origins: wanted.allow_origins.clone(),
        allow_credentials: wanted.allow_credentials.unwrap_or(false),
        allow_methods: wanted.allow_methods.clone(),
        allow_headers: wanted.allow_headers.clone(),
        expose_headers: wanted.expose_headers.clone(),
        max_age: Duration::from_secs(wanted.max_age.unwrap_or(MAX_AGE).into()),
    }
}
