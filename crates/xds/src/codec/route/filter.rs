// SPDX-License-Identifier: Apache-2.0
//! Filters of routes.

use std::time::Duration;

use arcstr::ArcStr;
use http::{HeaderName, HeaderValue};
use mesh::l7::route::{Cors, Filter, HeaderEdits, Mirror, PathEdit, Redirect, Rewrite};
use proto::waypoint as wire;
use wire::{filter::Filter as Kind, path_edit::Edit};

use super::{header_name, optional, status, target, target_message, text, wrong};
use crate::codec::field::{self, FieldError, In, Problem};

/// From the wire.
pub(super) fn decode_all(messages: &[wire::Filter]) -> Result<Vec<Filter>, FieldError> {
    messages.iter().map(decode).collect()
}

fn decode(message: &wire::Filter) -> Result<Filter, FieldError> {
    Ok(match message.filter.as_ref().field("filters")? {
        Kind::RequestHeaders(message) => {
            Filter::RequestHeaders(edits(message).field("filters.request_headers")?)
        }
        Kind::ResponseHeaders(message) => {
            Filter::ResponseHeaders(edits(message).field("filters.response_headers")?)
        }
        Kind::Redirect(message) => Filter::Redirect(redirect(message).field("filters.redirect")?),
        Kind::Rewrite(message) => Filter::Rewrite(rewrite(message).field("filters.rewrite")?),
        Kind::Mirror(message) => Filter::Mirror(mirror(message).field("filters.mirror")?),
        Kind::Cors(message) => Filter::Cors(cors(message)),
    })
}

/// To the wire.
pub(super) fn encode(filter: &Filter) -> wire::Filter {
    let filter = match filter {
        Filter::RequestHeaders(edits) => Kind::RequestHeaders(edits_message(edits)),
        Filter::ResponseHeaders(edits) => Kind::ResponseHeaders(edits_message(edits)),
        Filter::Redirect(redirect) => Kind::Redirect(wire::Redirect {
            scheme: text(redirect.scheme.as_ref()),
            hostname: text(redirect.hostname.as_ref()),
            port: redirect.port.map_or(0, u32::from),
            path: redirect.path.as_ref().map(path_message),
            status: redirect.status.as_u16().into(),
        }),
        Filter::Rewrite(rewrite) => Kind::Rewrite(wire::Rewrite {
            hostname: rewrite.hostname.as_ref().map(value_text).unwrap_or_default(),
            path: rewrite.path.as_ref().map(path_message),
        }),
        Filter::Mirror(mirror) => Kind::Mirror(wire::Mirror {
            target: Some(target_message(&mirror.target)),
            denominator: mirror.denominator,
            numerator: mirror.numerator,
        }),
        Filter::Cors(cors) => Kind::Cors(cors_message(cors)),
    };
    wire::Filter { filter: Some(filter) }
}

fn edits(message: &wire::HeaderEdits) -> Result<HeaderEdits, Problem> {
    let all = |headers: &[wire::Header]| headers.iter().map(header).collect::<Result<_, _>>();
    Ok(HeaderEdits {
        set: all(&message.set)?,
        add: all(&message.add)?,
        remove: message.remove.iter().map(|name| header_name(name)).collect::<Result<_, _>>()?,
    })
}

fn edits_message(edits: &HeaderEdits) -> wire::HeaderEdits {
    let all = |headers: &[(HeaderName, HeaderValue)]| {
        let header = |(name, value): &(HeaderName, HeaderValue)| wire::Header {
            name: name.to_string(),
            value: value_text(value),
        };
        headers.iter().map(header).collect()
    };
    wire::HeaderEdits {
        set: all(&edits.set),
        add: all(&edits.add),
        remove: edits.remove.iter().map(ToString::to_string).collect(),
    }
}

fn header(message: &wire::Header) -> Result<(HeaderName, HeaderValue), Problem> {
    Ok((header_name(&message.name)?, value(&message.value)?))
}

fn value(text: &str) -> Result<HeaderValue, Problem> {
    HeaderValue::from_str(text).ok().ok_or_else(|| wrong("header value", text))
}

/// Values come from texts.
fn value_text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

fn redirect(message: &wire::Redirect) -> Result<Redirect, Problem> {
    Ok(Redirect {
        scheme: optional(&message.scheme),
        hostname: optional(&message.hostname),
        port: field::port(message.port)?,
        path: message.path.as_ref().map(path).transpose()?,
        status: status(message.status)?,
    })
}

fn rewrite(message: &wire::Rewrite) -> Result<Rewrite, Problem> {
    let hostname = optional(&message.hostname).map(|hostname| value(&hostname)).transpose()?;
    Ok(Rewrite { hostname, path: message.path.as_ref().map(path).transpose()? })
}

fn path(message: &wire::PathEdit) -> Result<PathEdit, Problem> {
    Ok(match message.edit.as_ref().ok_or(Problem::Missing)? {
        Edit::Full(path) => PathEdit::Full(path.into()),
        Edit::Prefix(prefix) => PathEdit::Prefix(prefix.into()),
    })
}

fn path_message(edit: &PathEdit) -> wire::PathEdit {
    let edit = match edit {
        PathEdit::Full(path) => Edit::Full(path.to_string()),
        PathEdit::Prefix(prefix) => Edit::Prefix(prefix.to_string()),
    };
    wire::PathEdit { edit: Some(edit) }
}

fn mirror(message: &wire::Mirror) -> Result<Mirror, Problem> {
    if message.denominator == 0 {
        return Err(wrong("denominator", "0"));
    }
    Ok(Mirror {
        target: target(message.target.as_ref())?,
        denominator: message.denominator,
        numerator: message.numerator,
    })
}

fn cors(message: &wire::Cors) -> Cors {
    let texts = |texts: &[String]| texts.iter().map(ArcStr::from).collect();
    Cors {
        allow_origins: texts(&message.allow_origins),
        allow_credentials: message.allow_credentials,
        allow_methods: texts(&message.allow_methods),
        allow_headers: texts(&message.allow_headers),
        expose_headers: texts(&message.expose_headers),
        max_age: Duration::from_secs(message.max_age),
    }
}

fn cors_message(cors: &Cors) -> wire::Cors {
    let texts = |texts: &[ArcStr]| texts.iter().map(ToString::to_string).collect();
    wire::Cors {
        allow_origins: texts(&cors.allow_origins),
        allow_credentials: cors.allow_credentials,
        allow_methods: texts(&cors.allow_methods),
        allow_headers: texts(&cors.allow_headers),
        expose_headers: texts(&cors.expose_headers),
        max_age: cors.max_age.as_secs(),
    }
}
