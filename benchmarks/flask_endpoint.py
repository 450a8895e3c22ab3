"""The peer of the serving benchmark: a Flask endpoint that draws one image at a time with `model.predict`.

It is what tutorials deploy: the network as a Keras model in the process, one request after the other. Its weights are
fresh, which changes nothing about the time.
"""

import io
import json
import sys
from pathlib import Path


def main():
    """Serves `GET /predict.png?seed=` on a free port, which it prints, with the network of a `model.json`.

    `/predict_on_batch.png` does the same without what `predict` sets up at every call.
    """
    import flask
    import numpy as np
    from PIL import Image
    from werkzeug.serving import WSGIRequestHandler, make_server

    import zoo
    from training.data import to_uint8

    card = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    model = zoo.create(card["arch"], card["image_shape"], **card["hyperparameters"])
    generator = model.ema_generator
    app = flask.Flask(__name__)

    @app.get("/<any(predict, predict_on_batch):method>.png")
    def image(method):
        seed = flask.request.args.get("seed", 0, type=int)
        z = np.random.default_rng(seed).standard_normal((1, model.latent_dim), np.float32)
        images = generator.predict(z, verbose=0) if method == "predict" else generator.predict_on_batch(z)
        pixels = to_uint8(images)[0]
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        return flask.Response(buffer.getvalue(), mimetype="image/png")

    handler = type("Quiet", (WSGIRequestHandler,), {"log_request": lambda *_: None})
    server = make_server("127.0.0.1", 0, app, threaded=False, request_handler=handler)
    print(f"http://127.0.0.1:{server.port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
