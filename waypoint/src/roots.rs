// SPDX-License-Identifier: Apache-2.0
//! Whom this machine believes of servers outside the mesh.

use std::sync::{Arc, OnceLock};

use rustls::RootCertStore;

/// Reads it when it is first needed: it is hundreds of files.
#[derive(Debug, Default)]
pub struct Machine(OnceLock<Arc<RootCertStore>>);

impl Machine {
    /// Its roots; where it says nothing of that, as an image that has no more than a program, those of Mozilla.
    pub fn roots(&self) -> Arc<RootCertStore> {
        Arc::clone(self.0.get_or_init(|| Arc::new(read())))
    }
}

fn read() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (good, _bad) = roots.add_parsable_certificates(found.certs);
    if good == 0 {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}
