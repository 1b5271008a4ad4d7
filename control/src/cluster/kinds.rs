// SPDX-License-Identifier: Apache-2.0
//! Where the API server has each kind, and which of them are watched.

use kubernetes::Resource;

use crate::objects::Kind;

/// The resources of a kind, the current version first.
pub(crate) fn resources(kind: Kind) -> Vec<Resource> {
    let resource = |version: &'static str| {
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        Resource::new(group, version, kind.plural())
    };
    kind.api_versions().iter().copied().map(resource).collect()
}

/// The kinds that are watched: all but ConfigMaps, of which those alone are read that policies name.
pub(crate) fn watched() -> impl Iterator<Item = Kind> {
    Kind::ALL.into_iter().filter(|kind| *kind != Kind::ConfigMap)
}

#[cfg(test)]
mod tests {
    use kubernetes::Within;

    use super::*;

    #[test]
    fn a_kind_is_where_its_group_and_each_of_its_versions_are() {
        let places = |kind| resources(kind).iter().map(|it| it.path(&Within::Cluster)).collect::<Vec<_>>();
        assert_eq!(places(Kind::Pod), ["/api/v1/pods"]);
        let both =
            ["v1", "v1alpha1"].map(|version| format!("/apis/telemetry.istio.io/{version}/telemetries"));
        assert_eq!(places(Kind::Telemetry), both);
    }
}
