// SPDX-License-Identifier: Apache-2.0
//! What a server must prove by a policy, whatever that is attached to.

use std::net::IpAddr;

use arcstr::ArcStr;
use mesh::{
    Hostname,
    l7::{
        ServerTls,
        tls::{Root, Roots, SubjectName},
    },
};
use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};

use crate::{
    objects::{AltName, BackendTLSPolicy, CertificateReference, Validation},
    report::{Reports, line},
    translate::route::Outcome,
    world::Objects,
};

const FIELD: &str = "spec.validation";
/// A name that no server has (RFC 2606 §2).
const NO_SERVER: &str = "invalid";

/// See the module.
pub(super) struct Proof {
    pub(super) tls: ServerTls,
    /// Why no server can prove it: `Accepted` of every target.
    pub(super) fault: Option<Outcome>,
    /// `ResolvedRefs`.
    pub(super) resolved: Outcome,
}

/// What a policy says by itself.
struct Shape {
    hostname: Hostname,
    names: Vec<SubjectName>,
    system: bool,
}

/// Says what is wrong with a policy, whatever else there is.
pub(crate) fn check(object: &BackendTLSPolicy, reports: &mut Reports) {
    if object.spec.target_refs.is_empty() {
        reports.error("spec.targetRefs", "is empty: name a Service or a ServiceEntry");
    }
    drop(shape(object.spec.validation.as_ref(), reports));
}

/// Reads a policy; whatever is wrong with it, nobody is believed by it.
pub(super) fn read(objects: &Objects, object: &BackendTLSPolicy, reports: &mut Reports) -> Proof {
    if !object.spec.options.is_empty() {
        let keys: Vec<&str> = object.spec.options.keys().map(ArcStr::as_str).collect();
        reports.warning("spec.options", format!("{} are not known here, and left out", keys.join(", ")));
    }
    let resolved = Outcome::good("ResolvedRefs", "every certificate can be used");
    let before = reports.so_far().len();
    let Some(Shape { hostname, names, system }) = shape(object.spec.validation.as_ref(), reports) else {
        let wrong = reports.so_far().iter().skip(before);
        let wrong: Vec<String> = wrong.map(|report| line(&report.field, &report.message)).collect();
        return Proof { tls: nobody(), fault: Some(Outcome::bad("Invalid", wrong.join("; "))), resolved };
    };
    if system {
        let tls = ServerTls { hostname, names, roots: Roots::System };
        return Proof { tls, fault: None, resolved };
    }
    let references = object.spec.validation.iter().flat_map(|validation| &validation.ca_certificate_refs);
    let (mut roots, mut unresolved) = (Vec::new(), None);
    for (at, reference) in references.enumerate() {
        match certificates(objects, &object.metadata.namespace, reference) {
            Ok(found) => roots.extend(found),
            Err((reason, message)) => {
                let field = format!("{FIELD}.caCertificateRefs[{at}]");
                let outcome = Outcome::bad(reason, line(&field, &message));
                reports.warning(field, message);
                unresolved = unresolved.or(Some(outcome));
            }
        }
    }
    let fault = unresolved.as_ref().filter(|_| roots.is_empty());
    let fault = fault.map(|outcome| Outcome::bad("NoValidCACertificate", outcome.message.clone()));
    let tls = ServerTls { hostname, names, roots: Roots::Only(roots) };
    Proof { tls, fault, resolved: unresolved.unwrap_or(resolved) }
}

/// Whether a reference is one to a ConfigMap.
pub(super) fn is_map(reference: &CertificateReference) -> bool {
    matches!((reference.group.as_str(), reference.kind.as_str()), ("" | "core", "ConfigMap"))
}

fn nobody() -> ServerTls {
    #[expect(clippy::expect_used, reason = "the text is a name")]
    let hostname = Hostname::parse(NO_SERVER).expect("a label of letters is a name");
    ServerTls { hostname, names: Vec::new(), roots: Roots::Only(Vec::new()) }
}

fn shape(validation: Option<&Validation>, reports: &mut Reports) -> Option<Shape> {
    let Some(validation) = validation else {
        reports.error(FIELD, "is missing, or not understood: no server is believed");
        return None;
    };
    let hostname = precise(&validation.hostname);
    let hostname = hostname.map_err(|why| reports.error(format!("{FIELD}.hostname"), why)).ok();
    let names = validation.subject_alt_names.iter().enumerate().map(|(at, name)| {
        let why = match subject_name(name) {
            Ok(name) => return Some(name),
            Err(why) => why,
        };
        reports.error(format!("{FIELD}.subjectAltNames[{at}]"), why);
        None
    });
    let names: Vec<Option<SubjectName>> = names.collect();
    let well_known = validation.well_known.as_deref().filter(|text| !text.is_empty());
    let system = match (well_known, validation.ca_certificate_refs.is_empty()) {
        (Some("System"), true) => Some(true),
        (None, false) => Some(false),
        (Some("System"), false) => {
            let why = "cannot stand beside wellKnownCACertificates: remove one of them";
            reports.error(format!("{FIELD}.caCertificateRefs"), why);
            None
        }
        (Some(other), _) => {
            let why =
                format!("{other:?} is not known: write System, or name ConfigMaps in caCertificateRefs");
            reports.error(format!("{FIELD}.wellKnownCACertificates"), why);
            None
        }
        (None, true) => {
            let why = "nobody vouches for servers: name ConfigMaps, or set wellKnownCACertificates to System";
            reports.error(format!("{FIELD}.caCertificateRefs"), why);
            None
        }
    };
    Some(Shape { hostname: hostname?, names: names.into_iter().collect::<Option<_>>()?, system: system? })
}

fn precise(text: &str) -> Result<Hostname, String> {
    if text.contains('*') {
        return Err(format!("{text:?} is a pattern: write one name"));
    }
    if text.parse::<IpAddr>().is_ok() {
        return Err(format!("{text} is an address: write a name"));
    }
    Hostname::parse(text).map_err(|error| error.to_string())
}

fn subject_name(name: &AltName) -> Result<SubjectName, String> {
    match name.kind.as_str() {
        "Hostname" => precise(&name.hostname).map(SubjectName::Dns),
        "URI" if name.uri.contains(':') => Ok(SubjectName::Uri(name.uri.clone())),
        "URI" => Err(format!("{:?} is no URI: it has no scheme", name.uri)),
        other => Err(format!("{other:?} is no type of name: write Hostname or URI")),
    }
}

/// The certificates behind a reference: all that are there, or the reason and the words why there are none.
fn certificates(
    objects: &Objects,
    namespace: &ArcStr,
    reference: &CertificateReference,
) -> Result<Vec<Root>, (&'static str, String)> {
    let CertificateReference { group, kind, name } = reference;
    if !is_map(reference) {
        return Err(("InvalidKind", format!("{kind} of {group:?} is no ConfigMap of the core group")));
    }
    let broken = |what: String| ("InvalidCACertificateRef", format!("ConfigMap {namespace}/{name} {what}"));
    let Some(map) = objects.config_map(&(namespace.clone(), name.clone())) else {
        return Err(broken("is not there, or cannot be read".to_owned()));
    };
    let pem = map.data.as_ref().and_then(|bundle| bundle.certificates.as_ref());
    let pem = pem.ok_or_else(|| broken("has no key ca.crt".to_owned()))?;
    let mut roots = Vec::new();
    for found in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let der = found.map_err(|error| broken(format!("has a ca.crt that is not PEM: {error}")))?;
        let root = Root(der.as_ref().into());
        // As waypoints will.
        let taken = RootCertStore::empty().add(der);
        taken.map_err(|error| {
            broken(format!("has a certificate in ca.crt (number {}) that is none: {error}", roots.len() + 1))
        })?;
        roots.push(root);
    }
    if roots.is_empty() {
        return Err(broken("has no certificate in ca.crt".to_owned()));
    }
    Ok(roots)
}
