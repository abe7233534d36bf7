//! What the client sends for odd names, and what it says when nobody answers.

use super::{Client, image_path};
use blockyard_block::ErrorKind;

#[test]
fn a_name_never_reaches_outside_its_place_in_the_path() {
    assert_eq!(image_path("web-1.x_y", "/map"), "/v1/images/web-1.x_y/map");
    assert_eq!(image_path("a/../b?c d", ""), "/v1/images/a%2F..%2Fb%3Fc%20d");
}

#[test]
fn nobody_listening_is_told_apart_from_a_refusal() {
    let mut client = Client::new("/nonexistent/api.sock").unwrap();
    let error = client.images().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ShutDown);
    assert!(error.message().contains("/nonexistent/api.sock"), "{error}");
}
