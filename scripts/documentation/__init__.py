"""The documentation site: the Markdown of the repository, and reference pages made from the code.

links       links and headings of Markdown
reference   pages about commands, settings and routes, made from the code
staging     the pages of the site, from the files of the repository
build       the site, by Zensical; its links are checked
"""
