"""From a run folder to one self-contained page and a model card. No torch: a report starts at once.

contents    what a run folder holds, read once
verdict     what was learnt, in sentences made from numbers and their uncertainty
explain     why rewards moved as they did, and what beta did, with this run's own numbers
notices     what a reader must know before believing the rest
verbatim    text of data and models shown as it is: controls visible, words compared
plots       charts as functions of lists of rows; SVG, PNG and CSV
tables      numbers as people read them, and tables
figures     which charts a run page has
sections    headline numbers, samples, tables
page, card  the two documents
"""
