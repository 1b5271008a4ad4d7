// SPDX-License-Identifier: Apache-2.0
//! The cluster that the options mean.

use kubernetes::{Access, AccessError, Api};

use crate::arguments::To;

/// A client of its API server. Nothing has been asked yet.
pub(crate) async fn open(to: &To) -> Result<Api, AccessError> {
    let (kubeconfig, context) = (to.kubeconfig.clone(), to.context.clone());
    Access::User { kubeconfig, context }.open().await
}
