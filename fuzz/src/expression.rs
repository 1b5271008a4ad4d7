// SPDX-License-Identifier: Apache-2.0
//! Expressions of users about requests.

use std::borrow::Cow;

use http::HeaderName;
use mesh::expression::{Attribute, Facts, Filter, Formula, Side, Value};

use crate::text;

/// The longest text that a formula makes: what is put together has a bound, what is only passed on that of a header.
const LONGEST: usize = 8192;

/// A request that has all of some kinds, and nothing of others.
struct Request;

impl Facts for Request {
    fn attribute(&self, attribute: Attribute) -> Option<Value<'_>> {
        match attribute {
            Attribute::Path | Attribute::UrlPath | Attribute::Host | Attribute::Method => {
                Some(Value::Text(Cow::Borrowed("/é?x")))
            }
            Attribute::Code | Attribute::Flags | Attribute::SourcePort => Some(Value::Int(i64::MAX)),
            Attribute::RequestSize | Attribute::ResponseSize => Some(Value::Int(i64::MIN)),
            Attribute::RequestTime => Some(Value::Time(i64::MAX)),
            Attribute::RequestDuration => Some(Value::Duration(i64::MIN)),
            Attribute::MutualTls => Some(Value::Bool(true)),
            Attribute::Query
            | Attribute::Scheme
            | Attribute::Protocol
            | Attribute::Referer
            | Attribute::UserAgent
            | Attribute::RequestId
            | Attribute::RequestTotalSize
            | Attribute::CodeDetails
            | Attribute::GrpcStatus
            | Attribute::ResponseTotalSize
            | Attribute::SourceAddress
            | Attribute::DestinationAddress
            | Attribute::DestinationPort
            | Attribute::UpstreamAddress
            | Attribute::UpstreamPort
            | Attribute::PeerIdentity
            | Attribute::OwnIdentity => None,
        }
    }

    fn header(&self, side: Side, _name: &HeaderName) -> Option<Cow<'_, str>> {
        (side == Side::Request).then(|| Cow::Owned("x".repeat(LONGEST / 2)))
    }
}

pub(crate) fn expression(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    match Formula::parse(text) {
        Ok(formula) => {
            assert_eq!(formula.as_str(), text);
            let said = formula.text(&Request);
            assert!(said.as_ref().is_none_or(|said| said.len() <= LONGEST), "a text grows without bounds");
            assert_eq!(said, formula.text(&Request), "it says two things of one request");
            // Whatever comes to a text can be asked about.
            if let Ok(filter) = Filter::parse(&format!("string({text}) == string({text})")) {
                assert!(filter.holds(&Request) == said.is_some(), "what has a value is equal to itself");
            }
        }
        Err(error) => {
            let place = 1..=text.chars().count() + 1;
            assert!(place.contains(&error.at) && !error.reason.is_empty(), "{error}");
        }
    }
}
