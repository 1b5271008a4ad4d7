// SPDX-License-Identifier: Apache-2.0
//! Whether a server of the control plane is one: its chain leads to our roots and it has one of the names we know it by.

use rustls::{CertificateError, Error};
use rustls_pki_types::ServerName;

use super::judge::{Judge, Shown};
use crate::certificate::Roots;

/// Accepts the name that was dialled and some others.
#[derive(Debug)]
pub(super) struct AnyName {
    pub(super) roots: Roots,
    pub(super) alternatives: Vec<ServerName<'static>>,
}

impl Judge for AnyName {
    fn judge(&self, shown: &Shown<'_>) -> Result<(), Error> {
        shown.leads_to(self.roots.store())?;
        let Err(error) = shown.has(shown.name) else { return Ok(()) };
        let wrong_name = matches!(
            error,
            Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
            )
        );
        if wrong_name && self.alternatives.iter().any(|known| shown.has(known).is_ok()) {
            return Ok(());
        }
        Err(error)
    }
}
