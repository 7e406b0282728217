"""An OpenAI-compatible service over the engine: requests in, text as it is sampled out.

fields.py    a request's JSON, checked                              words
text.py      bytes of tokens to text, stop strings withheld         words
dialogue.py  messages to a prompt, a ToolRL answer to its parts     words
answers.py   what is sent back, in OpenAI's shapes                  words
batch.py     the thread that owns the engine
app.py       routes, refusals, callers who hang up
server.py    the socket, signals, how it ends
"""
