"""A small server with OpenAI's completions and chat completions, for a model of transformers on one device.

It is for trying a model, tests and evaluation where vLLM does not run: requests are answered one after the other, in
batches of their own choices. `requests.py` checks what is asked, `decoding.py` generates, `choices.py` turns tokens
into text, `answers.py` writes them as the API does, and `app.py` holds the routes.
"""
