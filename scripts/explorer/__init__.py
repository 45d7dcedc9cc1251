"""The playground: a page in the browser on which a person asks a served model.

forms       the text boxes of each task: texts to questions
catalogue   what a server serves, as the page shows it
asking      one request of the page, its answers, and the lines that ask the same
answers     answers as HTML: bars, highlighted spans, matrices, lists
spans       a text with parts of it highlighted
reports     the report of an evaluation, to show beside the model
explorer    what each button of the page does, without the page
page        the page, on Gradio; the only module that imports it
serving     the web server of the page: loopback only, nothing kept, nothing fetched from elsewhere
"""
