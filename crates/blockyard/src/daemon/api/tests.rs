//! The documentation is whole.

use super::documented;

#[test]
fn every_route_is_documented_with_its_types() {
    let (_, documentation) = documented().split_for_parts();
    let text = serde_json::to_value(&documentation).unwrap();
    let paths = text["paths"].as_object().unwrap();
    for path in
        ["/v1/pool", "/v1/images", "/v1/images/{name}/map", "/v1/jobs/{id}", "/v1/peers/{name}"]
    {
        assert!(paths.contains_key(path), "{path} is missing");
    }
    let schemas = text["components"]["schemas"].as_object().unwrap();
    for schema in ["Image", "ImageClient", "PoolStatus", "Job", "JobReport", "ErrorBody", "MapRun"]
    {
        assert!(schemas.contains_key(schema), "{schema} is missing");
    }
    let status = schemas["PoolStatus"]["properties"].as_object().unwrap();
    for field in ["bytes_logical", "bytes_physical", "bytes_unique", "clusters_untrusted", "hash"] {
        assert!(status.contains_key(field), "{field} is missing");
    }
}
