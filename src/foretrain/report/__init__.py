"""Self-contained HTML pages: a run folder, a model that runs in the browser, the two-timescale reproduction."""

from foretrain.report._data_picture import check_picture, data_picture
from foretrain.report._model_page import ModelPage, model_page
from foretrain.report._page import report
from foretrain.report._two_timescale_page import two_timescale_page

__all__ = ["ModelPage", "check_picture", "data_picture", "model_page", "report", "two_timescale_page"]
