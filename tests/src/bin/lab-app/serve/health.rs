// SPDX-License-Identifier: Apache-2.0
//! gRPC's health service (`grpc.health.v1.Health`): every service is well.

use std::convert::Infallible;

use anyhow::Result;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::StreamBody;
use hyper::{
    body::{Frame, Incoming},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

/// A message of two bytes that is not compressed: field 1, `status`, is 1, `SERVING`.
const SERVING: [u8; 7] = [0, 0, 0, 0, 2, 8, 1];

/// Serves one connection.
pub(super) async fn serve(stream: TcpStream) -> Result<()> {
    let answer = service_fn(|_request: Request<Incoming>| async {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let frames = [Frame::data(Bytes::from_static(&SERVING)), Frame::trailers(trailers)];
        let body = StreamBody::new(stream::iter(frames.map(Ok::<_, Infallible>)));
        let mut response = Response::new(body);
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        Ok::<_, Infallible>(response)
    });
    Ok(http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer).await?)
}
