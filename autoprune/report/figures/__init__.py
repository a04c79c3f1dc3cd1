"""The interactive pictures, one a file: plotly figure descriptions as plain JSON types, computed from a `RunSummary`.

Text from users and from error messages is escaped here, because plotly reads a subset of HTML in every label.
"""
