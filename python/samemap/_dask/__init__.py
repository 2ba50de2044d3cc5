"""dask and distributed: what `samemap.dask` and joblib's dask backend are made of.

`versions` looks at what is relied on, `audience` knows who is there, `graph` and `comm`
let arrays go by reference in graphs and in messages, `backend` does in joblib's backend.
`wire` is what is sent, and `arrival` what a worker or a client does with it.
"""
